import asyncio

import pytest
from holdfast.agent.mqtt.outbox import Message, Outbox
from hypothesis import given
from hypothesis import strategies as st


def notice(dropped: int) -> Message:
    return Message("events", b"dropped %d" % dropped)


@pytest.fixture
def box() -> Outbox:
    return Outbox(notice, limit=3)


async def said(box: Outbox, limit: int = 1000) -> list[tuple[str, bytes]]:
    """Everything that is in, acknowledged one after the other."""
    found = []
    while (message := await now(box)) is not None and len(found) < limit:
        found.append((message.topic, message.payload))
        box.said(message)
    return found


async def now(box: Outbox) -> Message | None:
    try:
        async with asyncio.timeout(0.01):
            return await box.next()
    except TimeoutError:
        return None


async def test_of_a_topic_only_the_newest_state_is_kept_and_said_once(box: Outbox) -> None:
    for value in (b"1", b"2", b"3"):
        box.state("a", value)
    box.state("b", b"1")
    assert await said(box) == [("a", b"3"), ("b", b"1")]
    box.state("b", b"1")
    assert await said(box) == []


async def test_a_broker_that_was_away_is_told_every_state_again_but_no_event_that_it_had(box: Outbox) -> None:
    box.state("a", b"1")
    box.event("e", b"1")
    await said(box)
    box.event("e", b"2")
    box.again()
    assert await said(box) == [("a", b"1"), ("e", b"2")]


async def test_what_is_not_acknowledged_is_said_again(box: Outbox) -> None:
    box.state("a", b"1")
    assert await now(box) == await now(box) == Message("a", b"1", retain=True)
    box.said(Message("a", b"1", retain=True))
    box.event("e", b"1")
    assert await now(box) == await now(box) == Message("e", b"1")


async def test_a_state_that_changes_while_the_last_one_is_on_its_way_follows_it(box: Outbox) -> None:
    box.state("a", b"1")
    message = await box.next()
    box.state("a", b"2")
    box.said(message)
    assert await said(box) == [("a", b"2")]


async def test_a_state_that_is_taken_back_is_cleared_once_and_then_forgotten(box: Outbox) -> None:
    box.state("a", b"1")
    await said(box)
    box.state("a", b"")
    box.again()
    assert await said(box) == [("a", b"")]
    box.again()
    assert await said(box) == []


async def test_what_another_says_now_is_not_said_any_more(box: Outbox) -> None:
    box.state("a", b"1")
    box.forget("a")
    box.again()
    assert await said(box) == []


async def test_the_oldest_events_are_dropped_and_their_number_is_said_before_the_rest(box: Outbox) -> None:
    for number in range(8):
        box.event("e", b"%d" % number)
    box.state("a", b"1")
    expected = [("a", b"1"), ("events", b"dropped 5"), ("e", b"5"), ("e", b"6"), ("e", b"7")]
    assert await said(box) == expected
    assert await said(box) == []


async def test_events_dropped_while_their_number_is_on_its_way_are_said_too(box: Outbox) -> None:
    for number in range(5):
        box.event("e", b"%d" % number)
    message = await box.next()
    box.event("e", b"5")
    box.said(message)
    assert await said(box, 1) == [("events", b"dropped 1")]


async def test_an_event_that_is_dropped_on_its_way_takes_no_other_with_it(box: Outbox) -> None:
    for number in range(3):
        box.event("e", b"%d" % number)
    message = await box.next()
    box.event("e", b"3")
    box.said(message)
    assert (await said(box))[1:] == [("e", b"1"), ("e", b"2"), ("e", b"3")]


async def test_whoever_waits_is_woken() -> None:
    box = Outbox(notice)
    waiting = asyncio.create_task(box.next())
    await asyncio.sleep(0)
    box.event("e", b"1")
    assert await waiting == Message("e", b"1")


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("state"), st.sampled_from("abc"), st.binary(max_size=1)),
        st.tuples(st.just("event"), st.just(""), st.just(b"")),
        st.tuples(st.sampled_from(["say", "again"]), st.just(""), st.just(b"")),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_whatever_happens_a_broker_ends_with_the_newest_states_and_every_event_is_said_or_counted(
    actions: list[tuple[str, str, bytes]],
) -> None:
    async def play() -> None:
        box = Outbox(notice, limit=3)
        wanted: dict[str, bytes] = {}
        broker: dict[str, bytes] = {}
        events = heard = counted = 0

        def hear(message: Message) -> None:
            nonlocal heard, counted
            if message.retain:
                broker[message.topic] = message.payload
            elif message.topic == "events":
                counted += int(message.payload.split()[1])
            else:
                heard += 1
            box.said(message)

        for action, topic, payload in actions:
            match action:
                case "state":
                    box.state(topic, payload)
                    wanted[topic] = payload
                case "event":
                    box.event("e", b"")
                    events += 1
                case "again":
                    box.again()
                case "say":
                    if (message := box._first()) is not None:
                        hear(message)
            assert len(box._events) <= 3
            assert len(box._states) <= 3
        while (message := box._first()) is not None:
            hear(message)
        full = {topic: payload for topic, payload in broker.items() if payload}
        assert full == {topic: payload for topic, payload in wanted.items() if payload}
        assert heard + counted == events

    asyncio.run(play())
