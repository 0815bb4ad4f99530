"""Whether a node lets another change a guest's replica on it. Pure.

Guards invariant 5, stale actors are powerless: a claim under an epoch lower than the storage or etcd knows is refused
at accept; the commit program compares the storage's mark again.
"""

from dataclasses import dataclass

from holdfast.coordinator.model.owner import Owner
from holdfast.coordinator.planning.assignment import Assignment


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks, for which guest, under which epoch, of which generation of the keyspace."""

    node: str
    vmid: int
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` for machines, `message` for operators."""

    reason: str
    message: str


def admit(claim: Claim, me: str, owner: Owner | None, generation: int | None, marked_epoch: int) -> Refusal | None:
    """None if the claim holds. `owner` and `generation` None: etcd has never been read; the storage's mark decides."""
    guest = f"guest {claim.vmid}"
    if generation is not None and claim.generation != generation:
        return Refusal(
            "GenerationDiffers",
            f"{claim.node} works under generation {claim.generation} of the keyspace, {me} under {generation}: one of"
            " them reads an old etcd. Compare their endpoints.",
        )
    if claim.epoch < marked_epoch:
        return Refusal(
            "EpochRefused",
            f"{claim.node} claims {guest} under epoch {claim.epoch}; the storage of {me} is marked with {marked_epoch}:"
            " another node owns the guest now.",
        )
    if owner is None:
        return None
    if owner.node == me:
        return Refusal("OwnerHere", f"{me} owns {guest} itself, under epoch {owner.epoch}; it takes no replica of it.")
    if (claim.node, claim.epoch) != (owner.node, owner.epoch):
        return Refusal(
            "EpochRefused",
            f"{claim.node} claims {guest} under epoch {claim.epoch}; {owner.node} owns it under epoch {owner.epoch}.",
        )
    return None


def allowed_datasets(assignment: Assignment | None) -> frozenset[str]:
    """The only datasets that a source may write to: a compromised one must not choose them."""
    return frozenset(disk.target_dataset for disk in assignment.disks) if assignment else frozenset()
