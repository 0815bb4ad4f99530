import pytest
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.planning.admission import Claim, admit, allowed_datasets
from hypothesis import given
from hypothesis import strategies as st
from unit.planning.made import NOON, VMID, assignment

ALPHA_3 = Owner(node="alpha", epoch=3, since=NOON, by="c")


@pytest.mark.parametrize(
    ("node", "epoch", "generation", "owner", "known_generation", "marked", "refused"),
    [
        ("alpha", 3, 1, ALPHA_3, 1, 3, None),
        ("alpha", 3, 1, ALPHA_3, 1, 0, None),  # a first replica
        ("alpha", 3, 1, ALPHA_3, 1, 2, None),  # the mark is raised when it is used
        ("alpha", 2, 1, ALPHA_3, 1, 2, "EpochRefused"),  # etcd knows a later one
        ("alpha", 3, 1, ALPHA_3, 1, 4, "EpochRefused"),  # the storage knows a later one than etcd
        ("alpha", 4, 1, ALPHA_3, 1, 3, "EpochRefused"),  # nobody gave it this epoch, as far as is known here
        ("gamma", 3, 1, ALPHA_3, 1, 3, "EpochRefused"),  # right epoch, wrong node
        ("alpha", 3, 2, ALPHA_3, 1, 3, "GenerationDiffers"),
        ("alpha", 3, 1, ALPHA_3, 2, 3, "GenerationDiffers"),
        ("alpha", 3, 1, Owner(node="beta", epoch=3, since=NOON, by="c"), 1, 0, "OwnerHere"),
        ("alpha", 4, 1, Owner(node="beta", epoch=3, since=NOON, by="c"), 1, 0, "OwnerHere"),
        ("alpha", 3, 1, None, None, 3, None),  # etcd was never read: the storage's mark decides
        ("gamma", 4, 1, None, None, 3, None),
        ("alpha", 2, 1, None, None, 3, "EpochRefused"),
        ("alpha", 3, 2, None, None, 3, None),
        ("alpha", 3, 1, None, 1, 0, None),  # no such owner in etcd
        ("alpha", 0, 0, ALPHA_3, 1, 0, "GenerationDiffers"),  # what an empty message says
        ("", 0, 0, None, None, 1, "EpochRefused"),
    ],
)  # fmt: skip
def test_a_claim_is_admitted_only_from_the_owner_under_its_epoch_of_this_generation(
    node: str,
    epoch: int,
    generation: int,
    owner: Owner | None,
    known_generation: int | None,
    marked: int,
    refused: str | None,
) -> None:
    refusal = admit(Claim(node, VMID, epoch, generation), "beta", owner, known_generation, marked)
    assert (refusal.reason if refusal else None) == refused


def test_a_refusal_names_who_asked_what_for_and_what_stands_against_it() -> None:
    refusal = admit(Claim("gamma", VMID, 2, 1), "beta", ALPHA_3, 1, 0)
    assert refusal is not None
    for word in ("gamma", "guest 101", "epoch 2", "alpha", "epoch 3"):
        assert word in refusal.message


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5) | st.none(), st.sampled_from(["alpha", "gamma"]))
def test_no_claim_under_an_epoch_lower_than_one_that_is_known_anywhere_passes(
    claimed: int, marked: int, owned: int | None, node: str
) -> None:
    owner = Owner(node="alpha", epoch=owned, since=NOON, by="c") if owned else None
    if claimed < max(marked, owned or 0):
        assert admit(Claim(node, VMID, claimed, 1), "beta", owner, 1, marked) is not None


def test_only_the_datasets_of_the_assignment_may_be_written() -> None:
    assert allowed_datasets(None) == frozenset()
    assert allowed_datasets(assignment(slots=("scsi0",))) == {"far/vm-101-scsi0"}
