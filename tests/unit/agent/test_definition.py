import random
import string

import pytest
from holdfast.agent.storage.zfs.definition import PIECE, join, split
from hypothesis import given
from hypothesis import strategies as st

NOISE = "".join(random.Random(1).choices(string.printable, k=40_000))


@given(st.dictionaries(st.text("0123456789abcdef", min_size=16, max_size=16), st.text(), max_size=4))
def test_what_was_split_joins_again(definitions: dict[str, str]) -> None:
    properties = {"holdfast:epoch": "3", "mountpoint": "none"}
    for digest, text in definitions.items():
        properties |= split(digest, text)
    assert join(properties) == definitions


@pytest.mark.parametrize("text", ["", "x", "cores: 2\n", NOISE, "ä€\U0001f40b" * 9000, "\t\n\0" * 100], ids=len)
def test_every_piece_fits_a_property_and_splits_no_line_or_column(text: str) -> None:
    pieces = split("0123456789abcdef", text)
    assert all(len(value) <= PIECE < 8192 for value in pieces.values())
    assert all(value.isascii() and value.isprintable() and " " not in value for value in pieces.values())
    assert all(key == key.lower() and len(key) < 256 for key in pieces), "zfsprops(7) on user properties"
    assert join(pieces) == {"0123456789abcdef": text}


def test_many_pieces_are_put_together_in_the_order_of_their_numbers() -> None:
    big = "".join(random.Random(2).choices(string.printable, k=120_000))
    pieces = split("0123456789abcdef", big)
    assert len(pieces) > 10, "or 10 does not sort before 2"
    assert join(dict(sorted(pieces.items()))) == {"0123456789abcdef": big}


def test_without_one_of_its_pieces_a_definition_is_not_there_and_the_others_are() -> None:
    pieces = split("aaaaaaaaaaaaaaaa", NOISE)
    assert len(pieces) > 2
    for lost in pieces:
        left = {key: value for key, value in pieces.items() if key != lost}
        assert join(left | split("bbbbbbbbbbbbbbbb", "x")) == {"bbbbbbbbbbbbbbbb": "x"}


@given(st.dictionaries(st.sampled_from(["holdfast:definition.a.0", "holdfast:definition.a.1", "holdfast:definition.a.x",
                                        "holdfast:definition.a", "holdfast:definition."]), st.text()))  # fmt: skip
def test_no_value_makes_it_fail(properties: dict[str, str]) -> None:
    join(properties)
