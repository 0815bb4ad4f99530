"""A response that etcd cut into fragments is delivered whole."""

from holdfast.coordinator.store.watch import Fragments
from holdfast.proto import etcd_pb2 as pb


def response(*keys: bytes, fragment: bool) -> pb.WatchResponse:
    return pb.WatchResponse(fragment=fragment, events=[pb.Event(kv=pb.KeyValue(key=key)) for key in keys])


def names(events: list[pb.Event] | None) -> list[bytes] | None:
    return None if events is None else [event.kv.key for event in events]


def test_a_response_in_one_piece_is_delivered_at_once() -> None:
    assert names(Fragments().add(response(b"a", b"b", fragment=False))) == [b"a", b"b"]


def test_fragments_are_held_until_the_last_and_joined_in_order() -> None:
    fragments = Fragments()
    assert fragments.add(response(b"a", fragment=True)) is None
    assert fragments.add(response(b"b", fragment=True)) is None
    assert names(fragments.add(response(b"c", fragment=False))) == [b"a", b"b", b"c"]
    assert names(fragments.add(response(b"d", fragment=False))) == [b"d"]


def test_a_sign_of_life_has_no_events() -> None:
    assert names(Fragments().add(response(fragment=False))) == []
