import re
import zlib
from pathlib import Path
from typing import Literal

import pytest
from holdfast.agent.storage.zfs.token import guids
from hypothesis import given
from hypothesis import strategies as st

RECORDED = Path(__file__).parents[2] / "fixtures/zfs"
TOKENS = {name: (RECORDED / f"{name}.token").read_text().strip() for name in ("full", "vm-101-disk-0")}


def made(nvlist: bytes) -> str:
    return f"1-0-{len(nvlist):x}-{zlib.compress(nvlist).hex()}"


@pytest.mark.parametrize("name", TOKENS)
def test_it_reads_the_guids_that_zfs_send_says_the_token_brings(name: str) -> None:
    says = re.search(r"toguid = 0x([0-9a-f]+)", (RECORDED / f"{name}.says").read_text())
    base = re.search(r"fromguid = 0x([0-9a-f]+)", (RECORDED / f"{name}.says").read_text())
    assert says is not None
    assert guids(TOKENS[name]) == (int(says[1], 16), int(base[1], 16) if base else None)


@pytest.mark.parametrize("token", ["-", "", "1", "1-2-3", "1-2-3-zz", "1---", "2" + TOKENS["full"][1:], made(b"")])
def test_a_token_that_is_none_says_nothing(token: str) -> None:
    assert guids(token) == (None, None)


@given(st.text() | st.binary(max_size=300).map(made))
def test_no_text_makes_it_fail(token: str) -> None:
    assert guids(token)[0] is None or token.startswith("1-")


HEADER = b"\0\1\0\0" + bytes(8)


@given(st.lists(st.integers(-64, 64).map(lambda n: n.to_bytes(4, "little", signed=True)), max_size=60))
def test_no_list_of_small_sizes_makes_it_fail_or_go_round_for_ever(words: list[bytes]) -> None:
    guids(made(HEADER + b"".join(words)))


def test_a_pair_of_negative_size_does_not_send_it_round_for_ever() -> None:
    back = [16, 0, 0, 0, -16, 0, 0, 0, 0, 0]
    assert guids(made(HEADER + b"".join(n.to_bytes(4, "little", signed=True) for n in back))) == (None, None)


@pytest.mark.parametrize(("order", "flag"), [("little", 1), ("big", 0)])
def test_a_host_of_either_byte_order_packs_it_in_its_own(order: Literal["little", "big"], flag: int) -> None:
    def packed(*fields: tuple[int, int]) -> bytes:
        return b"".join(value.to_bytes(size, order) for value, size in fields)

    pair = packed((32, 4), (7, 2), (0, 2), (1, 4), (8, 4)) + b"toguid\0\0" + packed((2**64 - 2, 8))
    assert guids(made(bytes([0, flag, 0, 0]) + bytes(8) + pair + bytes(8))) == (2**64 - 2, None)


@given(st.sampled_from(sorted(TOKENS)), st.data())
def test_no_damaged_token_makes_it_fail(name: str, data: st.DataObject) -> None:
    token = TOKENS[name]
    at = data.draw(st.integers(0, len(token) - 1))
    guids(token[:at] + data.draw(st.sampled_from("0123456789abcdef-")) + token[at + 1 :])
    assert guids(token[:at]) == (None, None)
