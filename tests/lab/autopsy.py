"""What a host was doing when a test failed: for what happens once in a hundred runs and cannot be looked at later."""

from .exec_channel import HostSilent
from .host import Host

# Each by itself and within a few seconds: on a pool that hangs `zpool status` never ends. A process's arguments may
# hang as well while it does; its name and its kernel stack do not (proc(5)).
_LOOKS = {
    "load": "cat /proc/loadavg; grep -E '^(MemFree|Dirty|Writeback):' /proc/meminfo",
    "what waits in the kernel": r"""
        for process in /proc/[1-9]*; do
            read -r _ name state parent _ <$process/stat || continue
            case "$state $name" in D*|*zfs*|*zpool*|*txg_sync*|*txg_quiesce*|*holdfast*|*python*)
                echo "${process#/proc/} $name $state, child of $parent"; sed 's/^\[<0>\]/   /' $process/stack;;
            esac
        done 2>/dev/null""",
    "disks": "grep -H . /sys/block/vd*/inflight",
    "kernel log": "dmesg | tail -25",
    "pools": "zpool status -v",
    "agent": "tail -n 25 /var/log/holdfast/agent.log",
}


def describe(host: Host) -> str:
    """A host's kernel stacks, pools and last words; what cannot be had says why."""
    said = []
    for title, script in _LOOKS.items():
        try:
            result = host.result(script, timeout=10.0)
        except HostSilent as silent:
            said.append(f"--- it does not answer: {silent}")
            break
        ended = "" if result.status == 0 else f" (exit status {result.status})"
        said.append(f"--- {title}{ended}\n{(result.stdout + result.stderr).decode(errors='replace').rstrip()}")
    return "\n".join(said)
