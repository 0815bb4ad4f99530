"""What an agent keeps over a restart: desired state in force, and the mark of the keyspace that it is from.

Guards invariants 6 and 7: a restored, older etcd is refused, and a record that cannot be read leaves its last good one.
"""

from collections.abc import Mapping

import structlog
from holdfast.agent.ports import Host
from holdfast.coordinator.model.record import Record
from holdfast.coordinator.store.mark import Mark
from pydantic import ValidationError

log = structlog.get_logger()

FILE = "last-good.json"


class Saved(Record):
    """Written whole, at each change."""

    desired: Mapping[str, str] = {}
    """Path under `desired/` → the record in force."""
    mark: Mark | None = None
    """Of the keyspace; None if its `meta` has never been read."""

    @property
    def last_good(self) -> dict[str, bytes]:
        """The records in force, as etcd has them."""
        return {path: value.encode() for path, value in self.desired.items()}


def load(host: Host) -> Saved:
    """What was saved last; nothing if there is none, or it cannot be read."""
    try:
        return Saved.model_validate_json(host.load(FILE) or b"{}")
    except ValidationError:
        log.warning("the saved desired state cannot be read; only etcd's is used, whatever it is", file=FILE)
        return Saved()
