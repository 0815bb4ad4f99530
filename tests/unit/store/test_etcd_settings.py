"""The settings of etcd's users: whole, and never a password in the clear over a network."""

from pathlib import Path

import pytest
from holdfast.coordinator.config import EtcdSettings
from pydantic import ValidationError

FILE = Path("/etc/holdfast/etcd-password")


@pytest.mark.parametrize("half", [{"user": "n1"}, {"password_file": FILE}])
def test_a_user_needs_a_password_file_and_the_other_way_round(half: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="needs both user and password_file"):
        EtcdSettings(**half)  # type: ignore[arg-type]


def test_a_password_is_not_sent_over_a_network_without_tls() -> None:
    with pytest.raises(ValidationError, match="in the clear: write https"):
        EtcdSettings(endpoints=("http://10.0.0.1:2379",), user="n1", password_file=FILE)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:2379", "http://[::1]:2379", "https://10.0.0.1:2379"])
def test_on_the_machine_itself_and_over_tls_it_may_be_used(endpoint: str) -> None:
    ca = Path("/etc/holdfast/ca.crt") if endpoint.startswith("https") else None
    assert EtcdSettings(endpoints=(endpoint,), ca=ca, user="n1", password_file=FILE).user == "n1"
