from pathlib import Path

import pytest
from holdfast.coordinator.mirror import libvirt
from holdfast.coordinator.mirror.records import imported, mirrored, render_storages
from holdfast.coordinator.mirror.sync import compare
from holdfast.coordinator.mirror.tree import Tree
from holdfast.coordinator.model.guest import Guest
from holdfast.coordinator.model.keyspace import Keyspace
from holdfast.coordinator.model.policy import ProtectionPolicy
from holdfast.coordinator.model.storage import Storage
from holdfast.coordinator.proxmox.storage_config import StorageConfig
from holdfast.coordinator.store.port import Delete, KeyValue, Put

PVE = Path(__file__).parents[2] / "fixtures" / "pve"


def tree(**changed: str) -> Tree:
    files = {str(file.relative_to(PVE)): file.read_bytes() for file in PVE.rglob("*") if file.is_file()}
    return Tree(files | {path: text.encode() for path, text in changed.items()}, complete=True, writable=True)


def only(**files: str) -> Tree:
    return Tree({path: text.encode() for path, text in files.items()}, complete=True, writable=True)


def test_the_cluster_becomes_records() -> None:
    records = mirrored(tree())
    assert (len(records.found["storage"]), len(records.found["guests"]), records.problems) == (16, 40, [])
    guest = records.found["guests"]["104"]
    assert isinstance(guest, Guest)
    assert (guest.type, guest.node, guest.name) == ("qemu", "alpha", "dns")
    assert guest.disks["scsi0"].volume == "local-zfs:vm-104-disk-0"
    pool = records.found["guests"]["111"]
    assert isinstance(pool, Guest)
    assert (pool.pool, pool.tags) == ("production", ("prod", "tier1"))
    storage = records.found["storage"]["tank"]
    assert isinstance(storage, Storage)
    assert (storage.nodes, storage.content, storage.properties["sparse"]) == (
        ("alpha", "beta"),
        ("images", "rootdir"),
        "1",
    )


def test_an_import_makes_nodes_and_a_policy_of_each_job() -> None:
    records = imported(tree())
    assert set(records.found["nodes"]) == {"alpha", "beta", "gamma"}
    policy = records.found["policies"]["pvesr-106-0"]
    assert isinstance(policy, ProtectionPolicy)
    assert (policy.selector.vmid, policy.schedule) == ((106,), "mon..fri 22:30")
    assert (policy.targets[0].node, policy.targets[0].bandwidth) == ("alpha", 50_000_000)
    assert len(records.found["policies"]) == 7
    assert sum("disabled" in problem for problem in records.problems) == 2


def test_no_secret_becomes_a_record() -> None:
    records = mirrored(
        only(
            **{
                "storage.cfg": "cifs: win\n\tserver a\n\tshare b\n\tpassword hunter2\n\n"
                "rbd: ceph\n\tkeyring hunter2\n\nodd: odd\n\tapi_password hunter2\n\tauth-token hunter2\n\tplain x\n\n"
                "pbs: pbs\n\tserver a\n\tdatastore b\n\tencryption-key hunter2\n\tmaster-pubkey hunter2\n",
                "nodes/a/qemu-server/101.conf": "cipassword: hunter2\n[special:cloudinit]\ncipassword: hunter2\n",
            }
        )
    )
    assert set(records.found["storage"]) == {"local", "win", "ceph", "odd", "pbs"}
    written = b"".join(record.to_json() for named in records.found.values() for record in named.values())
    assert b"hunter2" not in written
    assert b"plain" in written


def test_a_record_that_cannot_be_made_is_unreadable_and_the_rest_unharmed() -> None:
    records = mirrored(
        only(
            **{
                "storage.cfg": "zfspool: bad\n\tpool a@b\n\nzfspool: good\n\tpool tank\n\nnfs: lost\n\tserver a\n",
                "nodes/a/qemu-server/101.conf": "tags: a\u00e4\n",
                "nodes/a/qemu-server/102.conf": "name: fine\n",
                "nodes/a/lxc/103.conf": "rootfs: good:subvol-103-disk-0\n",
                "nodes/b/lxc/103.conf": "rootfs: good:subvol-103-disk-0\n",
            }
        )
    )
    assert set(records.found["storage"]) == {"local", "good"}
    assert set(records.found["guests"]) == {"102"}
    assert records.unreadable == {"storage": {"bad", "lost"}, "guests": {"101", "103"}}
    assert any("two places" in problem for problem in records.problems)


def test_a_volume_under_two_names_counts_once() -> None:
    records = mirrored(
        only(**{"nodes/a/lxc/103.conf": "rootfs: good:subvol-103-disk-0\nunused0: good:subvol-103-disk-0\n"})
    )
    guest = records.found["guests"]["103"]
    assert isinstance(guest, Guest)
    assert list(guest.disks) == ["rootfs"]


def test_bytes_that_are_no_text_do_not_stop_the_mirror() -> None:
    files = {"storage.cfg": b"odd: odd\n\tkey \xff\n", "nodes/a/lxc/103.conf": b"#\xff\nhostname: \xff\n"}
    records = mirrored(Tree(files, complete=True, writable=True))
    assert all(record.to_json() for named in records.found.values() for record in named.values())


KEYS = Keyspace("c")


def kv(folder: str, name: str, value: bytes) -> KeyValue:
    return KeyValue(KEYS.desired(folder, name), value, 1, 1, 1)


def test_what_is_the_same_is_not_written_and_what_is_not_ours_not_removed() -> None:
    records = imported(tree())
    there = [kv(folder, name, r.to_json()) for folder, named in records.found.items() for name, r in named.items()]
    assert not compare(KEYS, records, there, {"storage": {"local"}, "guests": {"101"}}, remove=True)
    there += [kv("storage", "by-hand", b"{}"), kv("guests", "999", b"{}"), kv("guests", "998", b"{}")]
    changes = compare(KEYS, records, there, {"storage": set(), "guests": {"999", "997"}}, remove=True)
    assert changes.removed == ("guests/999",)
    assert changes.operations == (Delete(KEYS.desired("guests", "999")),)
    assert not compare(KEYS, records, there, {"storage": set(), "guests": {"999"}}, remove=False)


def test_json_in_another_order_is_the_same_record() -> None:
    records = mirrored(only(**{"storage.cfg": ""}))
    assert not compare(
        KEYS,
        records,
        [
            kv(
                "storage",
                "local",
                b'{"properties":{"prune-backups":"keep-all=1","path":"/var/lib/vz"},"type":"dir",'
                b'"content":["backup","images","iso","rootdir","snippets","vztmpl"]}',
            )
        ],
        {},
        remove=True,
    )


def test_what_is_unreadable_is_not_removed() -> None:
    records = mirrored(only(**{"storage.cfg": "nfs: lost\n\tserver a\n"}))
    there = [kv("storage", "lost", b"{}")]
    assert compare(KEYS, records, there, {"storage": {"lost"}}, remove=True).removed == ()


def test_nodes_and_policies_that_people_changed_stay_theirs() -> None:
    records = imported(tree())
    changes = compare(KEYS, records, [kv("nodes", "alpha", b'{"address":"192.0.2.1"}')], {}, remove=False)
    assert "nodes/alpha" not in changes.created + changes.changed
    assert "nodes/beta" in changes.created
    assert all(isinstance(operation, Put) for operation in changes.operations)


def test_storages_are_rendered_for_a_node_without_proxmox() -> None:
    wanted = {name: s for name, s in mirrored(tree()).found["storage"].items() if isinstance(s, Storage)}
    rendered, problems = render_storages(b"# ours\n\n", wanted)
    again = StorageConfig.parse(rendered)
    assert (again.warnings, problems) == ([], [])
    assert rendered.startswith(b"# ours\n")
    assert render_storages(rendered, wanted) == (rendered, [])
    assert mirrored(only(**{"storage.cfg": rendered.decode()})).found["storage"] == wanted
    fewer = {name: storage for name, storage in wanted.items() if name != "nas"}
    assert "nas" not in StorageConfig.parse(render_storages(rendered, fewer)[0]).storages
    assert render_storages(rendered, fewer, unreadable={"nas"})[0] == rendered


def test_a_storage_that_proxmox_would_not_read_back_leaves_its_section() -> None:
    existing = b"nfs: nas\n\tserver a\n\texport /e\n"
    broken = {"nas": Storage(type="nfs", properties={"server": "a"}), "zfs": Storage(type="dir", properties={})}
    rendered, problems = render_storages(existing, broken)
    assert rendered == existing
    assert len(problems) == 2


POOL = b"<pool type='zfs'><name>tank</name><source><name>tank/vms</name></source></pool>"
DOMAIN = """<domain type='kvm'><name>{name}</name><devices>
<graphics type='vnc' passwd="hunter2"/>
<disk type='block'><source dev='/dev/zvol/tank/vms/{name}'/><target dev='vda'/></disk></devices></domain>"""


def domains(*names: str) -> dict[str, bytes]:
    return {f"{name}.xml": DOMAIN.format(name=name).encode() for name in names}


def test_domains_get_vmids_and_keep_them() -> None:
    first = libvirt.imported({"tank.xml": POOL}, domains("web", "db"), "a", {100: Guest(type="lxc")}, 100)
    assert {vmid: g.name for vmid, g in first.found["guests"].items() if isinstance(g, Guest)} == {
        "101": "db",
        "102": "web",
    }
    web = first.found["guests"]["102"]
    assert isinstance(web, Guest)
    assert (web.node, web.disks["vda"].volume) == ("a", "tank:web")
    assert "hunter2" not in web.definition
    there = {int(vmid): guest for vmid, guest in first.found["guests"].items() if isinstance(guest, Guest)}
    again = libvirt.imported({"tank.xml": POOL}, domains("web", "db", "new"), "a", there, 100)
    assert again.found["guests"].keys() == {"100", "101", "102"}
    assert {vmid: again.found["guests"][vmid] for vmid in ("101", "102")} == first.found["guests"]


@pytest.mark.parametrize("bad", [b"", b"<pool/>", b"<!DOCTYPE a><a/>"])
def test_a_bad_document_is_reported_and_the_rest_unharmed(bad: bytes) -> None:
    records = libvirt.imported({"bad.xml": bad, "tank.xml": POOL}, {"bad.xml": bad} | domains("web"), "a", {}, 100)
    assert set(records.found["storage"]) == {"tank"}
    assert set(records.found["guests"]) == {"100"}
    assert sum(problem.startswith("bad.xml") for problem in records.problems) == 2
