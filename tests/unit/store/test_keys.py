"""Key ranges: a prefix's range holds exactly the keys that start with it."""

import pytest
from holdfast.coordinator.store import keys
from hypothesis import example, given
from hypothesis import strategies as st


def contains(span: tuple[bytes, bytes], key: bytes) -> bool:
    start, end = span
    return key >= start and (end == keys.EVERYTHING or key < end)


@pytest.mark.parametrize(
    ("prefix", "end"), [("a", b"b"), ("/x/", b"/x0"), ("a\x7f", b"a\x80"), ("ÿ", b"\xc3\xc0"), ("", keys.EVERYTHING)]
)
def test_the_end_is_the_first_key_after_all_with_the_prefix(prefix: str, end: bytes) -> None:
    assert keys.prefix_range(prefix)[1] == end


@given(st.text(), st.text(min_size=1))
@example("/a/", "/a0")
@example("\U0010ffff", "\U0010ffffx")
def test_a_range_holds_a_key_exactly_when_it_starts_with_the_prefix(prefix: str, key: str) -> None:
    assert contains(keys.prefix_range(prefix), key.encode()) == key.startswith(prefix)


@given(st.text(), st.text(min_size=1))
def test_a_range_holds_every_extension_of_its_prefix(prefix: str, more: str) -> None:
    assert contains(keys.prefix_range(prefix), (prefix + more).encode())


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_the_next_page_starts_right_after_the_last_key(last: bytes, other: bytes) -> None:
    assert (other >= keys.after(last)) == (other > last)


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        keys.encode("")


@given(st.binary(min_size=1))
def test_keys_that_are_no_text_survive_the_way_there_and_back(key: bytes) -> None:
    assert keys.encode(keys.decode(key)) == key
