from contextlib import suppress

import pytest
from holdfast.coordinator.proxmox.libvirt import (
    POOL_TYPES,
    LibvirtError,
    Pool,
    parse_domain,
    parse_pool,
    parse_xml,
)
from hypothesis import given
from hypothesis import strategies as st


def pool(kind: str, source: str = "", target: str = "", name: str = "p") -> Pool:
    path = f"<target><path>{target}</path></target>" if target else ""
    return parse_pool(f"<pool type='{kind}'><name>{name}</name><source>{source}</source>{path}</pool>".encode())


HOST = "<host name='10.0.0.9'/>"


@pytest.mark.parametrize(
    ("kind", "source", "target", "storage_type", "properties", "shared"),
    [
        ("dir", "", "/srv", "dir", {"path": "/srv"}, False),
        ("fs", "<device path='/dev/sdb1'/>", "/srv", "dir", {"path": "/srv"}, False),
        (
            "netfs",
            f"{HOST}<dir path='/e'/><format type='nfs'/>",
            "/mnt",
            "nfs",
            {"path": "/mnt", "server": "10.0.0.9", "export": "/e"},
            True,
        ),
        (
            "netfs",
            f"{HOST}<dir path='s'/><format type='cifs'/>",
            "/mnt",
            "cifs",
            {"path": "/mnt", "server": "10.0.0.9", "share": "s"},
            True,
        ),
        ("logical", "<name>vg1</name>", "/dev/vg1", "lvm", {"vgname": "vg1"}, False),
        ("disk", "<device path='/dev/sdb'/>", "/dev", "libvirt-disk", {"path": "/dev", "source": "/dev/sdb"}, False),
        ("scsi", "", "/dev/disk/by-path", "libvirt-scsi", {"path": "/dev/disk/by-path"}, False),
        ("mpath", "", "/dev/mapper", "libvirt-mpath", {"path": "/dev/mapper"}, False),
        (
            "iscsi",
            "<host name='fd00::1' port='3260'/><device path='iqn.2003-01.a:b'/>",
            "/dev/disk/by-path",
            "iscsi",
            {"portal": "[fd00::1]:3260", "target": "iqn.2003-01.a:b"},
            True,
        ),
        (
            "iscsi-direct",
            f"{HOST}<device path='iqn.a'/>",
            "",
            "iscsidirect",
            {"portal": "10.0.0.9", "target": "iqn.a"},
            True,
        ),
        (
            "rbd",
            f"{HOST}<host name='b'/><name>vms/ns</name><auth type='ceph' username='u'/>",
            "",
            "rbd",
            {"pool": "vms", "namespace": "ns", "monhost": "10.0.0.9 b", "username": "u"},
            True,
        ),
        (
            "gluster",
            f"{HOST}<name>v</name><dir path='/'/>",
            "",
            "glusterfs",
            {"server": "10.0.0.9", "volume": "v"},
            True,
        ),
        ("zfs", "<name>tank/vms</name>", "", "zfspool", {"pool": "tank/vms"}, False),
        ("vstorage", "<name>c</name>", "/mnt", "libvirt-vstorage", {"path": "/mnt", "source": "c"}, True),
        ("sheepdog", f"{HOST}<name>s</name>", "", "libvirt-sheepdog", {"source": "s", "server": "10.0.0.9"}, True),
    ],
)
def test_every_pool_type_has_a_storage_type(
    kind: str, source: str, target: str, storage_type: str, properties: dict[str, str], shared: bool
) -> None:
    storage = pool(kind, source, target).storage
    assert (storage.id, storage.type, storage.properties, storage.shared) == ("p", storage_type, properties, shared)


def test_the_table_names_every_pool_type_of_libvirt() -> None:
    assert set(POOL_TYPES) == {
        *("dir", "fs", "netfs", "logical", "disk", "scsi", "mpath", "iscsi", "iscsi-direct", "rbd", "gluster", "zfs"),
        *("vstorage", "sheepdog"),
    }


POOLS = [
    pool("dir", target="/var/lib/libvirt/images/", name="default"),
    pool("zfs", "<name>tank/vms</name>", name="tank"),
    pool("logical", "<name>vg1</name>", name="vg"),
    pool("rbd", "<name>vms</name>", name="ceph"),
    pool("netfs", f"{HOST}<dir path='/e'/>", "/mnt/isos", name="isos"),
]

DOMAIN = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>0b2c</uuid>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/var/lib/libvirt/images/web.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block'><source dev='/dev/zvol/tank/vms/web-1'/><target dev='vdb'/></disk>
    <disk type='block'><source dev='/dev/vg1/web'/><target dev='vdc'/></disk>
    <disk type='network'><source protocol='rbd' name='vms/web'><host name='a'/></source><target dev='vdd'/></disk>
    <disk type='volume'><source pool='tank' volume='web-2'/><target dev='vde'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='sdb'/></disk>
    <disk type='file' device='cdrom'><source file='/mnt/isos/a.iso'/><target dev='sdc'/></disk>
    <disk type='block' device='disk'><source dev='/dev/sdx'/><target dev='vdf'/></disk>
    <disk type='file'><source file='/srv/odd.raw'/><target dev='vdg'/><shareable/></disk>
    <disk type='network'><source protocol='nbd' name='x'/><target dev='vdh'/></disk>
    <disk type='nvme'>
      <source type='pci' managed='yes' namespace='1'>
        <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
      </source><target dev='vdi'/>
    </disk>
    <disk type='vhostuser'><source type='unix' path='/run/spdk.sock'/><target dev='vdj'/></disk>
    <hostdev mode='subsystem' type='pci'/>
    <filesystem type='mount'><source dir='/srv'/><target dir='t'/></filesystem>
  </devices>
  <qemu:commandline/>
</domain>
"""


def test_a_domains_disks_belong_to_their_pools() -> None:
    domain = parse_domain(DOMAIN.encode(), POOLS)
    assert (domain.name, domain.type) == ("web", "kvm")
    assert {slot: (drive.kind, drive.source) for slot, drive in domain.disks.items()} == {
        "vda": ("volume", "default:web.qcow2"),
        "vdb": ("volume", "tank:web-1"),
        "vdc": ("volume", "vg:web"),
        "vdd": ("volume", "ceph:web"),
        "vde": ("volume", "tank:web-2"),
        "sda": ("empty", "none"),
        "sdb": ("cdrom", "/iso/a.iso"),
        "sdc": ("cdrom", "isos:a.iso"),
        "vdf": ("device", "/dev/sdx"),
        "vdg": ("file", "/srv/odd.raw"),
        "vdh": ("file", "nbd:x"),
        "vdi": ("device", "nvme 0000:01:00.0"),
        "vdj": ("device", "/run/spdk.sock"),
    }
    assert domain.disks["vda"].options == {"bus": "virtio", "format": "qcow2", "cache": "none"}
    assert domain.disks["vdg"].shared


def test_what_holds_a_domain_to_its_node_is_a_condition() -> None:
    domain = parse_domain(DOMAIN.encode(), POOLS)
    assert [(c.slot, c.reason) for c in domain.conditions] == [
        ("sdb", "local-iso"),
        ("vdf", "device"),
        ("vdi", "device"),
        ("vdj", "device"),
        ("hostdev0", "device"),
        ("filesystem0", "bind-mount"),
    ]


def test_without_pools_a_path_is_just_a_path() -> None:
    assert parse_domain(DOMAIN.encode()).disks["vda"].kind == "file"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<pool",
        b"<domain/>",
        b"<pool type='dir'/>",
        b"<pool type='tape'><name>x</name></pool>",
        b"<!DOCTYPE pool [<!ENTITY a 'b'>]><pool type='dir'><name>&a;</name></pool>",
        b"<!DOCTYPE pool SYSTEM 'file:///etc/passwd'><pool type='dir'><name>x</name></pool>",
        b"<pool type='dir'><name>&a;</name></pool>",
        b"<?xml version='1.0' encoding='nonsense'?><pool type='dir'><name>x</name></pool>",
    ],
)
def test_what_is_no_pool_is_refused(document: bytes) -> None:
    with pytest.raises(LibvirtError):
        parse_pool(document)


def test_what_is_no_domain_is_refused() -> None:
    for document in (b"<pool/>", b"<domain/>", b"<domain><name>x</name><devices><disk/></devices></domain>"):
        with pytest.raises(LibvirtError):
            parse_domain(document)
    disk = "<disk><target dev='vda'/></disk>"
    with pytest.raises(LibvirtError):
        parse_domain(f"<domain><name>x</name><devices>{disk}{disk}</devices></domain>".encode())


def test_a_document_may_be_deep() -> None:
    depth = 20_000
    assert parse_xml(b"<a>" * depth + b"</a>" * depth).tag == "a"


PIECES = st.lists(
    st.sampled_from(
        [
            *("<domain>", "</domain>", "<name>x</name>", "<devices>", "</devices>", "<disk type='file'>", "</disk>"),
            *("<source file='/a'/>", "<target dev='vda'/>", "<pool type='dir'>", "</pool>", "<target><path>/a</path>"),
            *("<!DOCTYPE a>", "&lt;", "<![CDATA[", "]]>", "<?x?>", "<source/>", "<host port='1'/>", "</target>"),
        ]
    )
    | st.text(max_size=4)
).map("".join)


@given(PIECES)
def test_the_parsers_raise_nothing_but_their_own_error(text: str) -> None:
    for parser in (parse_pool, parse_domain):
        with suppress(LibvirtError):
            parser(text.encode())


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(LibvirtError):
        parse_xml(data)
