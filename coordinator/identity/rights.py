"""What each identity may do in etcd. Guards that a node whose credentials are stolen decides nothing.

1. Only a coordinator writes owners, leader, failovers and meta.
2. Only operators write desired state; the mirror only its storages and guests.
3. A node writes its own reports, contract and lease, and locks; nothing of another node.
4. Everybody reads everything below the cluster's root: there is no secret in it.
"""

from dataclasses import dataclass

from holdfast.coordinator.identity.identity import Identity, Role
from holdfast.coordinator.model.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Right:
    """On one key, or on all that start with it."""

    key: str
    prefix: bool
    write: bool


@dataclass(frozen=True, slots=True)
class EtcdRole:
    """A role of etcd: its name, and its rights in full."""

    name: str
    rights: tuple[Right, ...]


def role_for(identity: Identity, keyspace: Keyspace) -> EtcdRole | None:
    """The one role that this identity's user has; None where it has no business in etcd's keys."""
    root = keyspace.root
    match identity.role:
        case Role.NODE:
            node = identity.name
            # the name of a node's role contains a slash, so that no node's can be another role
            return _role(
                f"node/{node}",
                root,
                prefixes=[keyspace.agent_prefix(identity.name), f"{root}locks/"],
                keys=[f"{root}contracts/{node}", f"{root}leases/{node}"],
            )
        case Role.COORDINATOR:
            return _role(
                "coordinator",
                root,
                prefixes=[keyspace.owners_prefix, f"{root}failovers/", keyspace.desired("requests", "")],
                keys=[keyspace.leader, keyspace.meta],
            )
        case Role.OPERATOR:
            return _role("operator", root, prefixes=[keyspace.desired_prefix])
        case Role.MIRROR:
            desired = [keyspace.desired("storage", ""), keyspace.desired("guests", "")]
            return _role("mirror", root, prefixes=[*desired, f"{root}mirror/"])
        case Role.MEMBER | Role.AUTHORITY | Role.ADMIN:
            return None


def _role(name: str, root: str, *, prefixes: list[str], keys: list[str] | None = None) -> EtcdRole:
    rights = [Right(root, prefix=True, write=False)]
    rights += [Right(prefix, prefix=True, write=True) for prefix in prefixes]
    rights += [Right(key, prefix=False, write=True) for key in keys or []]
    return EtcdRole(name, tuple(rights))
