"""The checkers turn red on what they are there to find; their pure parts, without hosts."""

import pytest

from .mixture import MixtureFound, check_counters
from .recorder import Write, violations


def written(*writes: tuple[float, str, int, int]) -> list[Write]:
    return [Write(at, node, "101", epoch, counter) for at, node, epoch, counter in writes]


def test_epochs_one_after_another_are_fine() -> None:
    assert violations(written((1, "a", 1, 1), (2, "a", 1, 2), (3, "b", 2, 3), (9, "a", 3, 4))) == []


def test_a_stale_owner_that_writes_on_is_found() -> None:
    found = violations(written((1, "a", 1, 1), (2, "b", 2, 2), (2.5, "a", 1, 2), (3, "b", 2, 3)))
    assert found == ["guest 101: epoch 1 wrote 2 on a 0.500 s after epoch 2 had written 2 on b"]


def test_two_nodes_in_one_epoch_are_found() -> None:
    found = violations(written((1, "a", 1, 1), (2, "b", 1, 2)))
    assert found == ["guest 101: epoch 1 was written by a and b"]


def test_guests_do_not_disturb_one_another() -> None:
    assert violations([Write(1, "a", "101", 2, 1), Write(2, "b", "102", 1, 1)]) == []


@pytest.mark.parametrize("counters", [[5, 5, 5], [5, 5, 4], [5, 4, 4], [0, 0, 0], [1, 0, 0], [7]])
def test_counters_of_one_instant_pass(counters: list[int]) -> None:
    check_counters(counters, "point")


@pytest.mark.parametrize("counters", [[5, 4, 3], [5, 6, 5], [4, 5, 5], [5, 3, 5], [2, 0, 0]])
def test_counters_of_several_instants_are_found(counters: list[int]) -> None:
    with pytest.raises(MixtureFound):
        check_counters(counters, "point")
