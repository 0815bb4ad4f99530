"""Records of one folder: typed, indexed, and with the last good one in force."""

from collections import defaultdict
from datetime import UTC, datetime

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.store.cache import Cache
from holdfast.coordinator.store.client import EtcdStore
from holdfast.coordinator.store.port import Event, KeyValue
from holdfast.coordinator.store.table import Table
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def owner(node: str, epoch: int = 1) -> Owner:
    return Owner(node=node, epoch=epoch, since=NOON, by="c")


class Feed(Cache):
    """A cache whose events a test makes."""

    def __init__(self) -> None:
        super().__init__(EtcdStore(["unused:1"]), "")

    def put(self, key: str, value: bytes) -> None:
        self.revision += 1
        self._apply(Event("put", KeyValue(key, value, 1, self.revision + 1, 1)))

    def delete(self, key: str) -> None:
        self.revision += 1
        self._apply(Event("delete", KeyValue(key, b"", 0, self.revision + 1, 0)))


def test_records_are_there_by_name_and_by_what_is_indexed() -> None:
    feed = Feed()
    table = Table(feed, "owners/", Owner)
    feed.put("owners/101", owner("a").to_json())
    by_node = table.index(lambda record: record.node)
    feed.put("owners/102", owner("b").to_json())
    feed.put("elsewhere/103", owner("b").to_json())
    assert table.get("101") == owner("a")
    assert dict(by_node.get("b")) == {"102": owner("b")}
    feed.put("owners/101", owner("b", 2).to_json())
    assert by_node.get("a") == {}
    assert set(by_node.get("b")) == {"101", "102"}
    feed.delete("owners/102")
    assert dict(table) == {"101": owner("b", 2)}


def test_a_value_that_cannot_be_read_is_a_problem_and_the_last_good_record_stays() -> None:
    feed = Feed()
    table = Table(feed, "owners/", Owner)
    seen: list[tuple[str, Owner | None, Owner | None]] = []
    table.subscribe(lambda *change: seen.append(change))
    feed.put("owners/101", owner("a").to_json())
    feed.put("owners/101", b'{"node": "b"}')
    assert table.get("101") == owner("a")
    assert "epoch" in table.problems["101"]
    feed.put("owners/101", owner("c").to_json())
    assert table.problems == {}
    feed.put("owners/102", b"{")
    assert table.get("102") is None
    feed.delete("owners/101")
    feed.delete("owners/102")
    assert table.problems == {}
    assert seen == [("101", None, owner("a")), ("101", owner("a"), owner("c")), ("101", owner("c"), None)]


@given(st.lists(st.tuples(st.sampled_from("123"), st.sampled_from(["a", "b", "bad", None]))))
def test_an_index_is_what_a_look_through_all_records_gives(changes: list[tuple[str, str | None]]) -> None:
    feed = Feed()
    table = Table(feed, "", Owner)
    by_node = table.index(lambda record: record.node)
    for name, node in changes:
        if node is None:
            feed.delete(name)
        else:
            feed.put(name, b"{" if node == "bad" else owner(node).to_json())
    expected: defaultdict[str, set[str]] = defaultdict(set)
    for name, record in table:
        expected[record.node].add(name)
    assert all(set(by_node.get(node)) == expected[node] for node in ("a", "b"))
