"""Channel programs (zfs-program(8)): several changes and their preconditions in one transaction group, one process.

Guards invariant 5, stale actors are powerless: each program compares the epoch that is marked on the guest's anchor in
the transaction that makes the change.
"""

import errno
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

import orjson
from holdfast.agent.ports import Refused, VolumesError
from holdfast.agent.storage.zfs.command import run

_FOLDER = resources.files("holdfast.agent.storage.zfs") / "lua"

MEMORY = 64 * 1024 * 1024
"""Bytes a program may use (`-m`); records of a whole batch pass through it."""


async def call(pool: str, program: str, orders: Sequence[list[str]]) -> list[str | Exception]:
    """Run a program over several guests' orders; the outcome of each is what it returned, Refused or VolumesError."""
    argv = [arg for order in orders for arg in order]
    out = await run("program", "-j", "-m", str(MEMORY), "--", pool, "-", *argv, stdin=_script(program))
    answers = orjson.loads(out).get("return", {})
    if isinstance(answers, dict):  # a Lua table comes as an object: its keys are "1", "2", …
        answers = [answers[str(n)] for n in range(1, len(answers) + 1)]
    if len(answers) != len(orders):
        raise VolumesError(f"zfs program {program} on {pool} answered {len(answers)} of {len(orders)}: {out[:200]!r}")
    return [_outcome(str(answer)) for answer in answers]


@cache
def _script(program: str) -> bytes:
    return b"\n".join((_FOLDER / f"{name}.lua").read_bytes() for name in ("common", program))


def _outcome(answer: str) -> str | Exception:
    reason, _, detail = answer.partition(" ")
    if reason == "ok":
        return detail
    if reason == "EpochRefused":
        return Refused(
            reason, f"the storage is marked with epoch {detail}, which is later: another node owns the guest now."
        )
    if reason == "MemberMissing":
        return Refused(reason, f"{detail} is not there as it was sent; the point is brought again.")
    if reason in ("AnchorMissing", "VolumeMissing"):
        return VolumesError(f"{detail} has gone since it was last seen; it is looked for again.")
    if reason == "GuidDiffers":
        return Refused(reason, f"{detail} is not the snapshot that was recorded; it is left alone.")
    what, _, number = detail.rpartition(" ")
    return VolumesError(f"{reason}: {what}: {_ERRNO.get(number, f'errno {number}')}")


_ERRNO = {
    str(errno.EEXIST): "it has a clone, or something of that name exists",
    str(errno.EBUSY): "it is held, or in use",
    str(errno.ENOSPC): "the pool is full",
    str(errno.EDQUOT): "a quota is reached",
    str(errno.E2BIG): "the record is larger than the 8 KiB of a property: the guest has too many disks",
}


def signed(guid: int) -> str:
    """A GUID as Lua prints it: channel programs know only signed 64-bit numbers."""
    return str(guid - 2**64 if guid >= 2**63 else guid)


def counted(groups: Iterable[Sequence[str]]) -> list[str]:
    """A list for a program: how many, then each one's arguments."""
    items = list(groups)
    return [str(len(items)), *(arg for item in items for arg in item)]
