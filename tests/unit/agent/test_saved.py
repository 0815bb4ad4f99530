"""What an agent keeps over a restart."""

import asyncio
from pathlib import Path

from holdfast.agent.host import LinuxHost
from holdfast.agent.saved import FILE, Saved, load
from holdfast.coordinator.store.mark import Mark


def test_what_was_saved_is_loaded_and_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    assert load(host) == Saved()
    kept = Saved(desired={"guests/101": "{}"}, mark=Mark(cluster_uuid="one", generation=1, revision=7))
    asyncio.run(host.save(FILE, kept.to_json()))
    assert load(host) == kept
    assert load(host).last_good == {"guests/101": b"{}"}
    (tmp_path / FILE).write_bytes(b'{"guests/101": "{}"}')
    assert load(host) == Saved()
