import pytest
from holdfast.agent.storage.rbd import identity, names
from holdfast.agent.storage.rbd.identity import Received
from hypothesis import given
from hypothesis import strategies as st

FSID = "0b3c3d0e-5f7c-4e51-9d0e-3f1d8a2b7c11"


def test_an_identity_is_the_same_on_every_node_and_differs_for_every_snapshot_image_pool_and_cluster() -> None:
    one = identity.guid(FSID, 2, "10141cbab2cd", 4)
    assert one == identity.guid(FSID, 2, "10141cbab2cd", 4) == 13235688574846238784
    others = [
        identity.guid(FSID, 2, "10141cbab2cd", 5),
        identity.guid(FSID, 2, "10141cbab2ce", 4),
        identity.guid(FSID, 3, "10141cbab2cd", 4),
        identity.guid(FSID[::-1], 2, "10141cbab2cd", 4),
    ]
    assert len({one, *others}) == 5
    assert all(0 < each < 2**64 for each in others)


@given(st.integers(1, 2**64 - 1), st.none() | st.integers(1, 2**64 - 1))
def test_what_is_marked_and_told_of_a_stream_is_read_again(guid: int, base: int | None) -> None:
    came = Received(guid, base)
    assert Received.parse(str(came)) == came
    assert identity.read_token(identity.token(came)) == came


def test_a_token_of_zfs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unpack|token"):
        identity.read_token("1-e5c7b8d-e0-789c636064000310a500c4ec50360710")


def test_marks_that_nobody_of_ours_wrote_are_passed_over() -> None:
    found = identity.received(
        {f"{names.SNAP}holdfast-1-1": "7 0", f"{names.SNAP}x": "gibberish", "conf_rbd_cache": "1"}
    )
    assert found == {"holdfast-1-1": Received(7, None)}


@pytest.mark.parametrize(
    ("marked", "there", "cut"),
    [
        ({}, ["holdfast-1-1"], None),
        ({"holdfast-1-1": "7 0"}, ["holdfast-1-1"], None),
        ({"holdfast-1-1": "7 0"}, [], "holdfast-1-1"),
        ({"holdfast-1-1": "7 0", "holdfast-1-2": "8 7"}, ["holdfast-1-1"], "holdfast-1-2"),
        ({"holdfast-1-1": "7 0", "holdfast-1-10": "9 7"}, ["holdfast-1-1", "before-upgrade"], "holdfast-1-10"),
        # its snapshot was destroyed since: nothing is under way
        ({"holdfast-1-1": "7 0", "holdfast-1-2": "8 7"}, ["holdfast-1-2"], None),
        ({"holdfast-2-1": "7 0", "holdfast-1-9": "6 0"}, [], "holdfast-2-1"),
    ],
)
def test_a_cut_stream_is_a_mark_later_than_every_snapshot(
    marked: dict[str, str], there: list[str], cut: str | None
) -> None:
    found = identity.partial(identity.received({names.SNAP + k: v for k, v in marked.items()}), there)
    assert (found[0] if found else None) == cut
