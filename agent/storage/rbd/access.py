"""How a node reaches a storage of type rbd: from its record, and from files that only the node has.

As Proxmox has it (PVE::CephConfig): `<keys>/<storeid>.keyring` is the key, `<keys>/<storeid>.conf` the configuration,
else the node's own. The key itself is never read here: librados and rbd(8) are given its path.
"""

from dataclasses import dataclass
from pathlib import Path

from holdfast.coordinator.model.storage import Storage


@dataclass(frozen=True, slots=True)
class Access:
    """One pool and namespace, and as whom it is used."""

    storeid: str
    pool: str
    namespace: str
    """Empty: none."""
    data_pool: str | None
    """Where the data of new images go, if not into the pool."""
    user: str
    settings: tuple[tuple[str, str], ...]
    """Ceph's options, for librados and the command alike."""
    conf: Path | None

    @classmethod
    def of(cls, storeid: str, storage: Storage, keys: Path, conf: Path, timeout: float) -> "Access":
        """What the storage's record and this node's files say. `timeout`: seconds for a mon or an OSD to answer."""
        properties = storage.properties
        settings = {
            "rados_mon_op_timeout": f"{timeout:g}",
            "rados_osd_op_timeout": f"{timeout:g}",
            "client_mount_timeout": f"{timeout:g}",
            # an OSD that was restarted is found by a newer map, which is asked for when an operation waits for so long;
            # by default after 10 s, by when those that wait have been given up
            "objecter_timeout": f"{timeout / 4:g}",
            "objecter_tick_interval": f"{timeout / 8:g}",
        }
        if monhost := properties.get("monhost"):
            settings["mon_host"] = ",".join(monhost.replace(";", ",").replace(" ", ",").split(","))
        keyring = keys / f"{storeid}.keyring"
        if keyring.exists():
            settings["keyring"] = str(keyring)
        own = keys / f"{storeid}.conf"
        found = own if own.exists() else conf if conf.exists() else None
        return cls(
            storeid,
            properties.get("pool", "rbd"),
            properties.get("namespace", ""),
            properties.get("data-pool"),
            properties.get("username", "admin"),
            tuple(settings.items()),
            found,
        )

    @property
    def argv(self) -> list[str]:
        """The options of rbd(8) that say all of it but the image."""
        args = ["--conf", str(self.conf or "/dev/null"), "--id", self.user, "--pool", self.pool]
        if self.namespace:
            args += ["--namespace", self.namespace]
        return args + [part for key, value in self.settings for part in (f"--{key}", value)]

    def __str__(self) -> str:
        return f"storage {self.storeid} (pool {'/'.join(filter(None, (self.pool, self.namespace)))})"
