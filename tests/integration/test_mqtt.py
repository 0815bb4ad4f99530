"""What agents say over MQTT, by a real broker that is killed, frozen and started again."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import yaml
from holdfast.agent.mqtt import publisher
from holdfast.agent.mqtt.outbox import Message, Outbox
from holdfast.agent.mqtt.publisher import Publisher
from holdfast.agent.mqtt.settings import MqttSettings
from holdfast.coordinator.model.announcement import Event, GuestAnnouncement, NodeAnnouncement, Topics
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.node import Node
from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.model.policy import ProtectionPolicy, Selector, Target
from holdfast.coordinator.store.client import EtcdStore
from integration.broker import PASSWORD, USER, Broker, running, subscribed
from integration.etcd_cluster import Authority, EtcdCluster, free_port
from integration.watcher import until

COMMAND = Path(sys.executable).parent / "holdfast-agent"
pytestmark = pytest.mark.timeout(180)  # an agent takes two seconds of CPU to start


@pytest.fixture
def keys(prefix: str) -> Keyspace:
    return Keyspace(prefix.strip("/"))


@pytest.fixture
def broker(installed: None, tmp_path: Path) -> Iterator[Broker]:
    with running(Broker(tmp_path)) as made:
        yield made


# --- the publisher


FILES: Any = SimpleNamespace(blocking=asyncio.to_thread)
"""Of the host, a publisher uses nothing else."""


def notice(dropped: int) -> Message:
    return Message("holdfast/dropped", b"%d" % dropped)


@pytest.fixture
def box() -> Outbox:
    made = Outbox(notice, limit=100)
    made.last_words = Message("holdfast/node", b"offline", retain=True)
    made.state("holdfast/node", b"online")
    return made


@contextlib.asynccontextmanager
async def publishing(box: Outbox, settings: MqttSettings) -> AsyncIterator[Publisher]:
    made = Publisher(settings, "test", box, FILES)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait((task,))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BACK_OFF", (0.1, 0.5))


def plain(broker: Broker) -> MqttSettings:
    return MqttSettings(host="127.0.0.1", port=broker.port)


def troubled(made: Publisher) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool(made.conditions(datetime.now(UTC)))

    return ask


async def test_after_its_death_a_broker_that_forgot_everything_is_told_everything_again(
    broker: Broker, box: Outbox
) -> None:
    async with publishing(box, plain(broker)) as made:
        async with subscribed(broker) as other:
            await other.until("holdfast/node", lambda said: said == b"online")
        broker.kill9()
        box.state("holdfast/guest", b"1")
        box.state("holdfast/guest", b"2")
        box.event("holdfast/event", b"while it was away")
        await until(troubled(made))
        (trouble,) = made.conditions(datetime.now(UTC))
        assert trouble.reason == "BrokerUnreachable"
        assert f"127.0.0.1:{broker.port}" in trouble.message
        await asyncio.to_thread(broker.start)
        async with subscribed(broker) as other:
            assert (await other.until("holdfast/guest")).payload == b"2"
            await other.until("holdfast/node", lambda said: said == b"online")

        async def well() -> bool:
            return not made.conditions(datetime.now(UTC))

        await until(well)


async def test_events_of_the_time_without_a_broker_follow_and_those_dropped_are_counted(
    broker: Broker, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "BACK_OFF", (4.0,))  # time for a subscriber to be there first
    broker.kill9()
    async with publishing(box, plain(broker)) as made:
        for number in range(250):
            box.event("holdfast/event", b"%d" % number)
        await until(troubled(made), 30)
        await asyncio.to_thread(broker.start)
        async with subscribed(broker) as other:
            await other.until("holdfast/event", lambda said: said == b"249")
        heard = [(str(m.topic), bytes(m.payload)) for m in other.heard if not m.retain]  # type: ignore[arg-type]
    assert ("holdfast/dropped", b"150") in heard
    assert [said for topic, said in heard if topic == "holdfast/event"] == [b"%d" % n for n in range(150, 250)]


async def test_a_frozen_broker_holds_up_nothing_and_is_told_what_it_missed(broker: Broker, box: Outbox) -> None:
    """Longest pause of the loop, and of whoever puts something in, while the broker is frozen and then left."""
    slowest = 0.0

    async def beat() -> None:
        nonlocal slowest
        while True:
            began = time.monotonic()
            box.state("holdfast/guest", b"%f" % began)
            box.event("holdfast/event", b"x" * 1000)
            await asyncio.sleep(0.01)
            slowest = max(slowest, time.monotonic() - began)

    async with publishing(box, plain(broker)) as made:
        async with subscribed(broker) as other:
            await other.until("holdfast/node")
        beating = asyncio.create_task(beat())
        try:
            await asyncio.sleep(0.5)
            broker.stop()
            await until(troubled(made), 30)
            await asyncio.sleep(1)
        finally:
            beating.cancel()
        assert slowest < 2.0, "publisher._ANSWER is 5 s: who waited for the broker waited longer"
        broker.cont()
        box.state("holdfast/guest", b"after")
        async with subscribed(broker) as other:
            await other.until("holdfast/guest", lambda said: said == b"after")


async def test_an_agent_that_is_stopped_while_the_broker_is_frozen_does_not_wait_for_long(
    broker: Broker, box: Outbox
) -> None:
    async with publishing(box, plain(broker)):
        async with subscribed(broker) as other:
            await other.until("holdfast/node")
        broker.stop()
        began = time.monotonic()
    assert time.monotonic() - began < 10
    broker.cont()


# --- TLS and passwords


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def tls_broker(installed: None, tmp_path: Path, authority: Authority) -> Iterator[Broker]:
    with running(Broker(tmp_path, authority.issue("broker"))) as made:
        yield made


def secured(broker: Broker, authority: Authority, folder: Path, password: str = PASSWORD) -> dict[str, Any]:
    mine = authority.issue("n1")
    (secret := folder / "mqtt.password").write_text(password + "\n")
    files = {"ca": str(mine.ca), "cert": str(mine.certificate), "key": str(mine.key), "password_file": str(secret)}
    return {"host": "127.0.0.1", "port": broker.port, "user": USER, **files}


async def test_under_tls_with_a_certificate_and_a_password_it_is_let_in(
    tls_broker: Broker, authority: Authority, box: Outbox, tmp_path: Path
) -> None:
    settings = MqttSettings(**secured(tls_broker, authority, tmp_path))
    async with publishing(box, settings), subscribed(tls_broker) as other:
        assert (await other.until("holdfast/node")).payload == b"online"


# paho leaves the socket of a handshake that failed to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("password", "ot authori"),
        ("ca", "certificate verify failed"),
        ("certificate", "wants a certificate"),
        ("file", "No such"),
    ],
)
async def test_who_is_not_let_in_says_why_and_is_let_in_once_it_is_right(
    tls_broker: Broker, authority: Authority, box: Outbox, tmp_path: Path, wrong: str, says: str
) -> None:
    settings = secured(tls_broker, authority, tmp_path, "wrong" if wrong == "password" else PASSWORD)
    secret = tmp_path / "mqtt.password"
    if wrong == "ca":
        settings["ca"] = str(Authority(tmp_path / "foreign").issue("n1").ca)
    elif wrong == "certificate":
        settings |= {"cert": None, "key": None}
    elif wrong == "file":
        await asyncio.to_thread(secret.unlink)
    async with publishing(box, MqttSettings(**settings)) as made:
        await until(troubled(made))
        (trouble,) = made.conditions(datetime.now(UTC))
        assert says in trouble.message
        assert "wrong" not in trouble.message
        if wrong in ("password", "file"):  # files are read anew
            await asyncio.to_thread(secret.write_text, f"{PASSWORD}\n")
            async with subscribed(tls_broker) as other:
                await other.until("holdfast/node")


# --- the agent


@contextlib.asynccontextmanager
async def agent(
    folder: Path, etcd: EtcdCluster, keys: Keyspace, mqtt: dict[str, Any]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real `holdfast-agent` of n1, on a machine whose storage cannot be used: its guests have a condition."""
    settings = {
        "endpoints": [f"http://{endpoint}" for endpoint in etcd.endpoints],
        "cluster": keys.cluster,
        "node": "n1",
        "listen": "127.0.0.1",
        "transfer_port": free_port(),
        "api_port": free_port(),
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "state"),
        "mqtt": mqtt,
    }
    (config := folder / "agent.yaml").write_text(yaml.safe_dump(settings))
    (tools := folder / "bin").mkdir()
    (tools / "setpriv").symlink_to(shutil.which("setpriv") or "")
    with (folder / "agent.log").open("ab") as log:
        environment = {**os.environ, "PATH": str(tools)}  # no zfs there
        child = await asyncio.create_subprocess_exec(COMMAND, "--config", config, stderr=log, env=environment)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def desire(store: EtcdStore, keys: Keyspace, *vmids: int) -> None:
    for name in ("n1", "n2"):
        await store.put(keys.desired("nodes", name), Node(address="127.0.0.1").to_json())
    policy = ProtectionPolicy(selector=Selector(all=True), targets=(Target(node="n2"),), rpo=10)  # reports: each second
    await store.put(keys.desired("policies", "p"), policy.to_json())
    for vmid in vmids:
        await store.put(keys.desired("guests", vmid), Guest(type="qemu", node="n1").to_json())
        owner = Owner(node="n1", epoch=1, since=datetime.now(UTC), by="w1")
        await store.put(keys.owner(vmid), owner.to_json())


async def reported(store: EtcdStore, key: str) -> bytes:
    async def there() -> bool:
        return await store.get(key) is not None

    await until(there, 60)
    found = await store.get(key)
    assert found
    return found.value


async def test_a_late_subscriber_reads_what_the_agent_reported_and_hears_what_happens(
    broker: Broker, etcd: EtcdCluster, store: EtcdStore, keys: Keyspace, tmp_path: Path
) -> None:
    await desire(store, keys, 101)
    topics = Topics(keys.cluster)
    async with agent(tmp_path, etcd, keys, {"host": "127.0.0.1", "port": broker.port}):

        async def as_in_etcd() -> bool:
            report = orjson.loads(await reported(store, keys.guest_report("n1", 101)))
            async with subscribed(broker) as late:
                guest = await late.until(topics.guest(101))
            assert isinstance(guest.payload, bytes)
            GuestAnnouncement.model_validate_json(guest.payload)
            words = {**report, "vmid": 101, "node": "n1"}
            return guest.retain and report["conditions"] != [] and orjson.loads(guest.payload) == words

        await until(as_in_etcd, 60)
        async with subscribed(broker) as late:
            node = await late.until(topics.node("n1"))
            assert node.retain
            assert isinstance(node.payload, bytes)
            assert NodeAnnouncement.model_validate_json(node.payload).online

            await desire(store, keys, 102)
            said = await late.until(f"holdfast/{keys.cluster}/events/guests/102")
            assert not said.retain
            assert Event.model_validate_json(said.payload).vmid == 102
            await late.until(topics.guest(102))
            await store.delete(keys.desired("guests", 102))
            await late.until(topics.guest(102), lambda said: said == b"")
        async with subscribed(broker) as later:
            await later.until(topics.node("n1"))
            await asyncio.sleep(0.3)
            assert topics.guest(102) not in [str(message.topic) for message in later.heard]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_an_agent_that_dies_or_stops_is_offline_for_everybody(
    broker: Broker, etcd: EtcdCluster, store: EtcdStore, keys: Keyspace, tmp_path: Path, sign: signal.Signals
) -> None:
    await desire(store, keys)
    topic = Topics(keys.cluster).node("n1")

    def online(said: bytes) -> bool:
        return NodeAnnouncement.model_validate_json(said).online

    async with subscribed(broker) as early:
        async with agent(tmp_path, etcd, keys, {"host": "127.0.0.1", "port": broker.port}) as child:
            await early.until(topic, online)
            child.send_signal(sign)
            await early.until(topic, lambda said: not online(said))
        async with subscribed(broker) as late:
            assert not online(bytes((await late.until(topic)).payload))  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", ["before the agent starts", "while it runs"])
async def test_with_a_frozen_broker_an_agent_works_and_reports_as_without_one(
    tls_broker: Broker,
    authority: Authority,
    etcd: EtcdCluster,
    store: EtcdStore,
    keys: Keyspace,
    tmp_path: Path,
    frozen: str,
) -> None:
    """From a new guest's record to its worker's first round, whose outcome is in etcd then."""
    await desire(store, keys, 101)
    mqtt = secured(tls_broker, authority, tmp_path)
    if frozen == "before the agent starts":
        tls_broker.stop()
    async with agent(tmp_path, etcd, keys, mqtt) as child:
        await reported(store, keys.guest_report("n1", 101))
        if frozen == "while it runs":
            async with subscribed(tls_broker) as other:
                await other.until(Topics(keys.cluster).guest(101))
            tls_broker.stop()
        slowest = 0.0
        for vmid in range(102, 107):
            began = time.monotonic()
            await desire(store, keys, vmid)
            await reported(store, keys.guest_report("n1", vmid))
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 4.5, "reports are a second apart; a try at the broker takes 5 s"
        tls_broker.cont()
        async with subscribed(tls_broker) as other:
            await other.until(Topics(keys.cluster).guest(106))
        assert child.returncode is None
    said = (tmp_path / "agent.log").read_text()
    assert PASSWORD not in said
    assert "Traceback" not in said
