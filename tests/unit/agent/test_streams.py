import pytest
from holdfast.agent.ports import ReceiveOrder, SendOrder
from holdfast.agent.storage.child import failure
from holdfast.agent.storage.zfs import names
from holdfast.agent.storage.zfs.streams import receive_args, send_args

SOURCE = "tank/guests/vm-101-disk-0@holdfast-1-2"


@pytest.mark.parametrize(
    ("order", "args"),
    [
        (SendOrder(SOURCE), ["send", "-L", "-e", "-c", SOURCE]),
        (SendOrder(SOURCE, "@holdfast-1-1"), ["send", "-L", "-e", "-c", "-i", "@holdfast-1-1", SOURCE]),
        (
            SendOrder(SOURCE, "#holdfast-1-1"),
            ["send", "-L", "-e", "-c", "-i", "tank/guests/vm-101-disk-0#holdfast-1-1", SOURCE],
        ),
        (SendOrder(SOURCE, raw=True), ["send", "-w", SOURCE]),
        (SendOrder(SOURCE, "@holdfast-1-1", raw=True), ["send", "-w", "-i", "@holdfast-1-1", SOURCE]),
        (SendOrder(SOURCE, resume_token="1-abc"), ["send", "-t", "1-abc"]),
    ],
)
def test_a_stream_is_sent_as_it_lies_on_disk_from_the_base_that_is_named(order: SendOrder, args: list[str]) -> None:
    assert send_args(order) == args


@pytest.mark.parametrize(
    "name",
    ["-R@x", "tank/v", "tank/v@", "tank/v@-i", "tank/v@a b", "tank/v@a\n", "tank//v@x", "/tank@x", "tank/v@a@b", "@x"],
)
def test_a_name_that_could_be_anything_but_a_snapshot_reaches_no_argv(name: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        send_args(SendOrder(name))
    with pytest.raises(ValueError, match="not a"):
        names.check_snapshot(name)


@pytest.mark.parametrize("base", ["-i", "@", "@-x", "#", "@a b", ""])
def test_a_base_that_could_be_anything_but_a_snapshot_of_this_dataset_reaches_no_argv(base: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        send_args(SendOrder(SOURCE, base))


def options(args: list[str]) -> set[str]:
    return {args[n + 1] for n, arg in enumerate(args) if arg == "-o"}


@pytest.mark.parametrize(("kind", "closed"), [("volume", "volmode=none"), ("filesystem", "canmount=noauto")])
@pytest.mark.parametrize("incremental", [False, True])
def test_a_replica_is_received_resumable_unmounted_closed_and_marked(kind: str, closed: str, incremental: bool) -> None:
    args = receive_args(ReceiveOrder("tank/r", "101/scsi0", kind, incremental=incremental))
    assert args[:3] == ["recv", "-s", "-u"]
    assert args[-1] == "tank/r"
    assert options(args) == {"readonly=on", "holdfast:replica=101/scsi0", closed}
    assert "-F" not in args, "nothing is ever rolled over"


def test_the_rest_of_a_stream_is_received_resumable_and_unmounted_into_what_is_closed_already() -> None:
    args = receive_args(ReceiveOrder("tank/r", "101/scsi0", "volume", resume=True))
    assert args == ["recv", "-s", "-u", "tank/r"]


@pytest.mark.parametrize("dataset", ["-F", "tank/r@x", "", "tank/a b", "tank/../r", "tank/r\n"])
def test_a_dataset_that_could_be_an_option_is_not_received_into(dataset: str) -> None:
    with pytest.raises(ValueError, match="not a dataset"):
        receive_args(ReceiveOrder(dataset, "101/scsi0", "volume"))


def test_what_zfs_said_is_told_in_one_line_and_a_long_argument_is_cut() -> None:
    text = failure(["zfs", "recv", "x" * 500], 1, b"cannot receive:\n\tinvalid stream\n")
    assert text.endswith("cannot receive: invalid stream")
    assert len(text) < 200
    assert failure(["zfs", "list"], 2, b"") == "zfs list: exit code 2"


def test_a_guests_anchor_and_what_is_set_aside_bear_no_name_that_proxmox_takes_for_a_disk() -> None:
    assert names.anchor("tank", 101) == "tank/holdfast/guests/101"
    assert names.aside("tank/guests/vm-101-disk-0", 101, 3, 1) == "tank/holdfast/aside/101-e3-1-vm-101-disk-0"
