from holdfast.coordinator.cli.state import State, read
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.store.port import KeyValue
from hypothesis import given
from hypothesis import strategies as st

KEYS = Keyspace()


def state(**items: bytes) -> State:
    return read(KEYS, (KeyValue(KEYS.root + k.replace("__", "/"), v, 1, 1, 1) for k, v in items.items()), 1)


def test_an_owner_that_cannot_be_read_is_a_problem_and_no_crash() -> None:
    shown = state(owners__101=b'{"node": "alpha"}', desired__guests__101=b'{"type": "lxc"}').status()
    assert shown.guests[0].owner is None
    assert "owners/101 cannot be read: epoch: is missing" in shown.problems[0].condition.message


def test_a_report_that_cannot_be_read_counts_as_none_and_is_told() -> None:
    read_state = state(agents__alpha__guests__101=b"{", agents__alpha__self=b'{"version": 1}')
    assert not read_state.reports.agents
    assert [p.key for p in read_state.unreadable] == ["agents/alpha/guests/101", "agents/alpha/self"]


def test_the_leader_is_known_by_its_key() -> None:
    assert state(leader=b"w1").leader
    assert not state().leader


@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(
                ["desired", "guests", "101", "owners", "agents", "policies", "self", "replicas", "", "x", "\u0663"]
            ),
            max_size=5,
        ).map("__".join),
        st.sampled_from([b"", b"{", b"{}", b"[]", b"null", b"\xff", b'{"type": "lxc"}']),
    )
)
def test_whatever_lies_in_the_keyspace_there_is_a_status(items: dict[str, bytes]) -> None:
    assert str(state(**items).status().summary)
