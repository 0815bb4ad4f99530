"""What is wrong with a cluster beneath its guests: facts are collected, findings are computed from them."""
