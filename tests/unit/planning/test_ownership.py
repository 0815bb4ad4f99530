from datetime import UTC, datetime, timedelta

from holdfast.coordinator.model.guest import Guest, Placement
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.request import Request
from holdfast.coordinator.planning.desired import Desired
from holdfast.coordinator.planning.ownership import first_owners, stale_requests
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NODES = {"alpha": Node(address="10.0.0.1"), "beta": Node(address="10.0.0.2")}


def guest(node: str | None) -> Guest:
    return Guest(type="qemu", node=node)


def owners(desired: Desired, owned: set[int] | None = None) -> dict[int, tuple[str, int]]:
    return {v: (o.node, o.epoch) for v, o in first_owners(desired, owned or set(), "w1", NOW).items()}


def test_a_guest_without_an_owner_gets_the_node_where_it_was_seen_and_the_first_epoch() -> None:
    assert owners(Desired(nodes=NODES, guests={101: guest("alpha")})) == {101: ("alpha", 1)}


def test_where_a_guest_is_placed_counts_before_where_it_was_seen() -> None:
    desired = Desired(nodes=NODES, guests={101: guest("alpha")}, placements={101: Placement(node="beta")})
    assert owners(desired) == {101: ("beta", 1)}


def test_a_guest_whose_node_is_not_known_or_does_not_exist_gets_no_owner() -> None:
    assert owners(Desired(nodes=NODES, guests={101: guest(None), 102: guest("gamma")})) == {}


@given(
    guests=st.dictionaries(st.integers(100, 110), st.sampled_from([None, "alpha", "beta", "gamma"])),
    owned=st.sets(st.integers(100, 110)),
)
def test_an_owner_that_exists_is_never_touched_wherever_its_guest_is(
    guests: dict[int, str | None], owned: set[int]
) -> None:
    desired = Desired(nodes=NODES, guests={vmid: guest(node) for vmid, node in guests.items()})
    created = owners(desired, owned)
    assert created.keys().isdisjoint(owned)
    assert created.keys() | owned >= {vmid for vmid, node in guests.items() if node in NODES}


def test_requests_are_pruned_after_a_day() -> None:
    ages = {"old": timedelta(days=1, seconds=1), "young": timedelta(days=1), "ahead": -timedelta(hours=1)}
    requests = {id: Request(action="replicate", vmid=101, asked=NOW - age) for id, age in ages.items()}
    assert stale_requests(requests, NOW) == ["old"]
