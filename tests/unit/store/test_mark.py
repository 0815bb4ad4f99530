"""A node that worked under one keyspace refuses an older one after its restart."""

import pytest
from holdfast.coordinator.model.owner import Meta
from holdfast.coordinator.store.mark import Mark, mark_of
from holdfast.coordinator.store.port import KeyValue, WentBack

SEEN = Mark(cluster_uuid="one", generation=2, revision=100)


def meta(cluster: str = "one", generation: int = 2) -> KeyValue:
    value = Meta(cluster_uuid=cluster, generation=generation).to_json()
    return KeyValue("meta", value, 1, 1, 1)


@pytest.mark.parametrize(
    ("found", "revision", "why"),
    [
        (meta(), 99, "at revision 99, this node has seen 100.*raise `generation` in its key `meta` above 2"),
        (meta(generation=1), 500, "of generation 1.*raise `generation` in its key `meta` above 2"),
        (meta(cluster="two"), 500, "it is two's, this node has worked for one.*remove last-good.json"),
        (meta(cluster="two", generation=9), 500, "two's.*remove last-good.json"),
        (None, 500, "one without `meta`.*remove last-good.json"),
        (KeyValue("meta", b"{", 1, 1, 1), 99, "at revision 99"),
    ],
)
def test_an_older_or_foreign_keyspace_is_refused_with_the_way_on(
    found: KeyValue | None, revision: int, why: str
) -> None:
    with pytest.raises(WentBack, match=why):
        SEEN.check(found, revision, "last-good.json")


@pytest.mark.parametrize(
    ("found", "revision"), [(meta(), 100), (meta(generation=3), 7), (KeyValue("meta", b"{", 1, 1, 1), 100)]
)
def test_the_same_one_and_one_that_was_rebuilt_on_purpose_are_taken(found: KeyValue, revision: int) -> None:
    SEEN.check(found, revision, "last-good.json")


def test_a_mark_is_made_of_what_can_be_read() -> None:
    assert mark_of(meta(), 100) == SEEN
    assert mark_of(None, 100) is None
    assert mark_of(KeyValue("meta", b"{", 1, 1, 1), 100) is None
