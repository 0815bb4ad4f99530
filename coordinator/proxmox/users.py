"""user.cfg: the pools that guests and storages belong to. Users, groups and their secrets are not read.

Source of the rules: the behaviour of PVE::AccessControl (parse_user_config). A guest belongs to one pool: the first
that names it.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from . import sections, values
from .sections import Finding

_POOL = re.compile(r"[A-Za-z0-9._\-]+(?:/[A-Za-z0-9._\-]+){0,2}")


@dataclass(frozen=True)
class Pool:
    """One pool."""

    id: str
    comment: str
    vmids: tuple[int, ...]
    storages: tuple[str, ...]


@dataclass
class UserConfig:
    """The pools of a user.cfg, and the pool of each guest."""

    pools: dict[str, Pool] = field(default_factory=dict)
    pool_of: dict[int, str] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> "UserConfig":
        """Read a user.cfg; what cannot be read is in `warnings` and as if it were not there."""
        config = cls()
        for number, line in enumerate(sections.decode(data).split("\n"), 1):
            kind, *fields = (part.strip() for part in line.split(":"))
            if kind == "pool":
                config._take(number, [*fields, "", "", "", ""])
        return config

    def _take(self, line: int, fields: list[str]) -> None:
        pool, comment, guests, storages = fields[:4]
        if not _POOL.fullmatch(pool):
            self.warnings.append(Finding(line, f"ignored pool {pool!r}: invalid characters in its name"))
            return
        vmids = []
        for text in values.split_list(guests):
            if not re.fullmatch(r"[1-9][0-9]{2,8}", text):
                self.warnings.append(Finding(line, f"pool {pool!r}: ignored {text!r}: it is no VMID"))
                continue
            vmid = int(text)
            if vmid in self.pool_of:
                self.warnings.append(Finding(line, f"pool {pool!r}: guest {vmid} is in {self.pool_of[vmid]!r} already"))
                continue
            self.pool_of[vmid] = pool
            vmids.append(vmid)
        accepted = []
        for storage in values.split_list(storages):
            try:
                accepted.append(values.storage_id(storage))
            except values.ValueRefused as error:
                self.warnings.append(Finding(line, f"pool {pool!r}: {error}"))
        earlier = self.pools.get(pool, Pool(pool, "", (), ()))  # a pool may have several lines
        self.pools[pool] = Pool(
            pool,
            unquote_to_bytes(sections.encode(comment)).decode("utf-8", "replace") or earlier.comment,
            (*earlier.vmids, *vmids),
            tuple(dict.fromkeys((*earlier.storages, *accepted))),
        )
