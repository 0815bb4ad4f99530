"""The files that a whole cluster shares: datacenter.cfg, HA, pools, and the bandwidth limits that follow from them."""

import pytest
from holdfast.coordinator.proxmox.bandwidth import BandwidthError, limit
from holdfast.coordinator.proxmox.datacenter import DatacenterConfig, Transport
from holdfast.coordinator.proxmox.ha import HaConfig, NodeAffinity, ResourceAffinity
from holdfast.coordinator.proxmox.storage_config import StorageConfig
from holdfast.coordinator.proxmox.users import UserConfig
from hypothesis import given
from hypothesis import strategies as st


def test_datacenter_limits_and_networks() -> None:
    config = DatacenterConfig.parse(
        b"# comment\nkeyboard: de\nbwlimit: default=1000,migration=500.5\n"
        b"migration: secure,network=10.1.2.0/24\nreplication: type=insecure,network=fd00::/64\n"
    )
    assert config.bandwidth == {"default": 1000, "migration": 500.5}
    assert config.migration == Transport("secure", "10.1.2.0/24")
    assert config.replication == Transport("insecure", "fd00::/64")
    assert config.options["keyboard"] == "de"
    assert config.warnings == []


def test_the_last_line_of_a_key_counts_and_a_bad_value_does_not() -> None:
    config = DatacenterConfig.parse(b"bwlimit: clone=1\nbwlimit: clone=2\nmigration: network=here\nnonsense\n")
    assert config.bandwidth == {"clone": 2}
    assert config.migration == Transport()
    assert [w.line for w in config.warnings] == [4, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("migration_unsecure: 1", Transport("insecure")),
        ("migration_unsecure: yes", Transport("insecure")),
        ("migration_unsecure: maybe", Transport()),
        ("migration_unsecure: 1\nmigration: secure", Transport()),
        ("migration_unsecure: 1\nmigration: network=10.0.0.0/24", Transport("insecure")),  # that line is dropped
        ("migration: websocket", Transport()),
        ("migration: insecure,network=10.0.0.0/255.255.255.0", Transport()),
        ("migration: insecure,network=10.0.0.0/33", Transport()),
        ("migration: insecure,network=10.0.0.0/7", Transport()),
        ("migration: insecure,network=fe80::1%eth0/64", Transport()),
        ("migration: insecure,network=fd00::/64", Transport("insecure", "fd00::/64")),
    ],
)
def test_how_guests_migrate(text: str, expected: Transport) -> None:
    assert DatacenterConfig.parse(text.encode()).migration == expected


def test_resources_and_rules_of_ha() -> None:
    config = HaConfig.parse(
        b"vm: 101\n\tstate enabled\n\tgroup g\n\nct: 102\n\tmax_restart 3\n\tfailback 0\n\nvm: x\n\tstate started\n",
        b"node-affinity: near\n\tresources vm:101,ct:102\n\tnodes pve1:2,pve2\n\tstrict 1\n\n"
        b"resource-affinity: apart\n\tresources vm:101 ct:102\n\taffinity negative\n\tdisable\n\n"
        b"resource-affinity: broken\n\tresources 101\n",
    )
    assert (config.resources[101].state, config.resources[101].group) == ("started", "g")
    assert (config.resources[102].max_restart, config.resources[102].failback) == (3, False)
    assert config.node_affinities == {
        "near": NodeAffinity("near", frozenset({101, 102}), {"pve1": 2, "pve2": 0}, True, False)
    }
    assert config.resource_affinities == {"apart": ResourceAffinity("apart", frozenset({101, 102}), False, True)}
    assert len(config.warnings) == 3


def test_a_pool_with_several_lines_has_what_all_of_them_name() -> None:
    config = UserConfig.parse(b"pool:prod:caf%C3%A9:101:aa:\npool:prod::102:aa,bb:\n")
    assert (config.pools["prod"].vmids, config.pools["prod"].storages) == ((101, 102), ("aa", "bb"))
    assert config.pools["prod"].comment == "caf\u00e9"


def test_pools_and_the_one_pool_of_each_guest() -> None:
    config = UserConfig.parse(
        b"user:root@pam:1:0:::a@b.c:::\n\npool:prod:the good ones:101,102:local-zfs:\npool:test::102;103,x:l:\n"
        b"pool:a b:::\npool:prod/sub::104::\n"
    )
    assert config.pool_of == {101: "prod", 102: "prod", 103: "test", 104: "prod/sub"}
    assert config.pools["prod"].storages == ("local-zfs",)
    assert config.pools["prod"].comment == "the good ones"
    assert [w.line for w in config.warnings] == [4, 4, 4, 5]


STORAGES = StorageConfig.parse(b"""
zfspool: slow
\tpool a
\tbwlimit default=100,migration=50

zfspool: fast
\tpool b
\tbwlimit migration=500

zfspool: plain
\tpool c

zfspool: free
\tpool d
\tbwlimit migration=0

linstor: foreign
\tbwlimit nonsense
""").storages
DATACENTER = {"default": 300.0, "restore": 0.0}


@pytest.mark.parametrize(
    ("operation", "storages", "override", "expected"),
    [
        ("migration", ["slow", "fast"], None, 50),
        ("migration", ["fast"], None, 500),
        ("clone", ["slow", "fast"], None, 100),
        ("clone", ["fast"], None, 300),
        ("move", ["plain"], None, 300),
        ("migration", ["fast", "plain"], None, 300),
        ("migration", [], None, 300),
        ("restore", [], None, 0),
        ("restore", ["slow"], None, 100),
        ("migration", ["slow"], 10, 10),
        ("migration", ["slow"], 1000, 50),
        ("migration", ["slow"], 0, 50),
        ("migration", ["slow", "free"], None, 0),
        ("migration", ["free", "slow"], None, 50),
        ("default", ["slow"], None, 100),
    ],
)
def test_the_smallest_limit_counts(
    operation: str, storages: list[str], override: float | None, expected: float
) -> None:
    assert limit(operation, storages, STORAGES, DATACENTER, override) == expected


def test_who_is_permitted_may_override() -> None:
    assert limit("migration", ["slow"], STORAGES, DATACENTER, 1000, permitted=True) == 1000
    assert limit("migration", ["slow"], STORAGES, DATACENTER, 0, permitted=True) == 0
    assert limit("migration", ["slow"], STORAGES, DATACENTER, permitted=True) == 50


def test_without_any_limit_there_is_none() -> None:
    assert limit("clone", ["plain"], STORAGES, {}) == 0


@pytest.mark.parametrize(("operation", "storages"), [("walk", ["slow"]), ("clone", ["gone"]), ("clone", ["foreign"])])
def test_what_has_no_limit_is_refused(operation: str, storages: list[str]) -> None:
    with pytest.raises(BandwidthError):
        limit(operation, storages, STORAGES, DATACENTER)


@given(st.binary(), st.binary())
def test_nothing_is_raised(data: bytes, more: bytes) -> None:
    DatacenterConfig.parse(b"bwlimit: " + data + b"\nmigration: " + more)
    HaConfig.parse(b"vm: 101\n\tstate " + data, b"node-affinity: a\n\tnodes " + more)
    UserConfig.parse(b"pool:a:" + data + b":" + more)
