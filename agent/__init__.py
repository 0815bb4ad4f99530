"""One node: carries decisions out on real storage."""
