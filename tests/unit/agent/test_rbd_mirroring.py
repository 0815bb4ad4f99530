"""What rbd-mirror's status says, as it was seen on 16.2.15."""

from datetime import UTC, datetime
from typing import Any

from holdfast.agent.storage.rbd.mirroring import described
from holdfast.coordinator.planning.observed import Mirror, MirrorSite

AT = datetime(2026, 11, 21, 11, 27, 14, tzinfo=UTC)
SECONDS = int(AT.timestamp())


def status(state: int = 0, description: str = "status not found", *remote: dict[str, Any], up: bool = True) -> Any:
    return {"state": state, "description": description, "up": up, "remote_statuses": list(remote)}


def test_an_idle_copy_is_as_old_as_the_newest_mirror_snapshot_of_its_source() -> None:
    copy = status(4, f'replaying, {{"remote_snapshot_timestamp":{SECONDS},"replay_state":"idle"}}')
    assert described(status(0, "status not found", copy), primary=True) == Mirror(
        True, (MirrorSite("replaying", True, AT),)
    )


def test_a_copy_that_is_behind_is_as_old_as_what_it_has() -> None:
    details = (
        f'{{"local_snapshot_timestamp":{SECONDS},"remote_snapshot_timestamp":{SECONDS + 60},"replay_state":"syncing"}}'
    )
    assert described(status(2, f"syncing, {details}"), primary=False).sites[0].at == AT


def test_of_a_copy_that_fails_the_words_are_told() -> None:
    failed = described(status(1, "failed to open image", up=False), primary=False)
    assert failed.sites == (MirrorSite("error", False, None, "failed to open image"),)


def test_a_state_of_a_later_ceph_is_unknown() -> None:
    assert described(status(17, "new, not even JSON"), primary=False).sites[0].state == "unknown"
