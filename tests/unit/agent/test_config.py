from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from holdfast.agent.config import AgentSettings, InsecureRefused
from holdfast.agent.main import main
from holdfast.agent.mqtt.settings import MqttSettings
from holdfast.coordinator.identity.authority import Authority, certificate_pem, key_pem, new_key
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Identity, Role
from pydantic import ValidationError

ETCD = ("https://10.0.0.1:2379",)


def identity(folder: Path, name: str = "pve1", role: Role = Role.NODE) -> dict[str, Path]:
    now, key = datetime.now(UTC), new_key()
    authority = Authority.create("default", now)
    files = {"ca": folder / "ca.crt", "cert": folder / "node.crt", "key": folder / "node.key"}
    write(files["ca"], certificate_pem(authority.certificate))
    write(files["cert"], certificate_pem(authority.issue(Identity(name, role), key.public_key(), now)))
    write(files["key"], key_pem(key), private=True)
    return files


def test_an_agent_without_a_certificate_is_not_started_where_others_can_reach_it() -> None:
    with pytest.raises(InsecureRefused, match=r"holdfast join pve1 TOKEN.*insecure: true"):
        AgentSettings(node="pve1").credentials()
    result = CliRunner().invoke(main, env={"HOLDFAST_NODE": "pve1"})
    assert result.exit_code == 2
    assert "the agent is not started: this node has no certificate" in result.output


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_an_agent_on_loopback_needs_no_certificate(listen: str) -> None:
    assert AgentSettings(node="pve1", listen=listen).credentials() is None


def test_an_agent_without_a_certificate_is_started_where_that_is_meant() -> None:
    assert AgentSettings(node="pve1", insecure=True).credentials() is None


def test_an_agent_is_the_node_of_its_certificate(tmp_path: Path) -> None:
    found = AgentSettings(node="pve1", endpoints=ETCD, **identity(tmp_path)).credentials()
    assert found is not None
    assert found.identity == Identity("pve1", Role.NODE)


@pytest.mark.parametrize(("name", "role"), [("pve2", Role.NODE), ("pve1", Role.OPERATOR)])
def test_an_agent_with_the_certificate_of_somebody_else_is_not_started(tmp_path: Path, name: str, role: Role) -> None:
    settings = AgentSettings(node="pve1", endpoints=ETCD, **identity(tmp_path, name, role))
    with pytest.raises(InsecureRefused, match=f"the certificate of {role} {name}, but this is node pve1"):
        settings.credentials()


def test_insecure_and_certificates_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="contradict"):
        AgentSettings(node="pve1", endpoints=ETCD, insecure=True, **identity(tmp_path))


def test_trusted_networks_are_exceptions_from_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="exceptions from TLS"):
        AgentSettings(node="pve1", trusted=["10.1.0.0/24"])
    monkeypatch.setenv("HOLDFAST_TRUSTED", "10.1.0.0/24, fd00::/64")
    settings = AgentSettings(node="pve1", endpoints=ETCD, **identity(tmp_path))
    assert [str(network) for network in settings.trusted] == ["10.1.0.0/24", "fd00::/64"]


def test_a_broker_is_spoken_to_on_the_port_that_goes_with_tls_or_without() -> None:
    assert MqttSettings(host="broker").at == ("broker", 1883)
    assert MqttSettings(host="broker", ca=Path("ca.crt")).at == ("broker", 8883)
    assert MqttSettings(host="broker", port=1).at == ("broker", 1)
    MqttSettings(host="127.0.0.1", user="agents", password_file=Path("secret"))  # the clear ends on this machine


@pytest.mark.parametrize(
    ("mqtt", "says"),
    [
        ({"user": "agents", "password_file": "secret"}, "password would cross the network in the clear"),
        ({"user": "agents"}, "both user and password_file"),
        ({"ca": "ca.crt", "cert": "n1.crt"}, "both cert and key"),
        ({"cert": "n1.crt", "key": "n1.key"}, "needs ca"),
        ({"password": "secret"}, "Extra inputs"),
    ],
)
def test_half_of_what_a_broker_needs_is_wrong_usage(mqtt: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AgentSettings.model_validate({"node": "pve1", "mqtt": {"host": "broker", **mqtt}})


def test_a_broker_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_MQTT", '{"host": "broker"}')
    assert AgentSettings(node="pve1").mqtt == MqttSettings(host="broker")
