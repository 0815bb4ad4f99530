import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from holdfast.coordinator.identity.authority import CA_LIFE, Authority, certificate_pem, key_pem, new_key
from holdfast.coordinator.identity.authority_files import AuthorityError, AuthorityFiles
from holdfast.coordinator.identity.credentials import Credentials
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Identity, NotAnIdentity, Role, identity_of
from holdfast.coordinator.identity.revocation import BadRevocationList, Revocations
from holdfast.coordinator.identity.verify import Untrusted, check_peer, expires_soon

NOW = datetime(2026, 5, 1, tzinfo=UTC)
AUTHORITY = Authority.create("default", NOW)
NODES = frozenset({Role.NODE})


def issue(name: str = "pve1", role: Role = Role.NODE, **more: object) -> x509.Certificate:
    return AUTHORITY.issue(Identity(name, role), new_key().public_key(), NOW, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", Role)
def test_a_certificate_says_whose_it_is(role: Role) -> None:
    assert identity_of(issue("pve1", role)) == Identity("pve1", role)


def test_no_two_identities_are_one_user_of_etcd() -> None:
    names = ["pve1", "coordinator-pve1", "coordinator", "admin", "operator-root"]
    users = [Identity(name, role).common_name for name in names for role in Role if role is not Role.ADMIN]
    assert len(users) == len(set(users))
    assert "root" not in users


@pytest.mark.parametrize("name", ["root", "Root", "ROOT"])
@pytest.mark.parametrize("role", Role)
def test_nobody_can_be_named_as_the_user_that_may_do_everything(name: str, role: Role) -> None:
    with pytest.raises(NotAnIdentity, match="may not be a name"):
        Identity(name, role)


@pytest.mark.parametrize("name", ["", "coordinator@pve1", "a.b", "a b", "-a", "a\n", "a" * 64, "ä", "a/b", "a:b"])
def test_what_is_no_nodes_name_is_no_identity(name: str) -> None:
    with pytest.raises(NotAnIdentity, match="is no name"):
        Identity(name, Role.NODE)


def signed(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Certificate:
    """A certificate with any subject, as somebody's own authority may make it."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    builder = x509.CertificateBuilder(AUTHORITY.certificate.subject, name, key.public_key(), 1)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))

    return builder.sign(key, hashes.SHA256())


CN, OU, SN = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.SERIAL_NUMBER


@pytest.mark.parametrize(
    "subject",
    [
        [],
        [(CN, "pve1")],
        [(CN, "pve1"), (OU, "node")],
        [(CN, "pve1"), (OU, "node"), (SN, "pve2")],
        [(CN, "root"), (OU, "node"), (SN, "root")],
        [(CN, "pve1"), (OU, "emperor"), (SN, "pve1")],
        [(CN, "pve1"), (OU, "node"), (OU, "coordinator"), (SN, "pve1")],
        [(CN, "pve1"), (CN, "pve2"), (OU, "node"), (SN, "pve1")],
        [(CN, "coordinator@pve1"), (OU, "node"), (SN, "pve1")],
    ],
)
def test_a_subject_that_is_not_exactly_one_identity_is_none(subject: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    with pytest.raises(NotAnIdentity):
        identity_of(signed(*subject))
    with pytest.raises(Untrusted) as refused:
        check_peer(signed(*subject), Revocations(), NODES)
    assert refused.value.reason == "ForeignCertificate"


def test_a_server_that_checks_host_names_takes_no_other_role_for_a_node() -> None:
    def names(role: Role) -> list[str]:
        extension = issue("pve1", role).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return extension.value.get_values_for_type(x509.DNSName)

    assert names(Role.NODE) == ["pve1"]
    assert names(Role.AUTHORITY) == ["pve1.authority.holdfast"]


def test_an_operator_cannot_pose_as_a_server_and_the_authoritys_service_not_as_a_client() -> None:
    def purposes(role: Role) -> set[str]:
        extension = issue("a", role).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        return {oid._name for oid in extension.value}

    assert purposes(Role.OPERATOR) == {"clientAuth"}
    assert purposes(Role.AUTHORITY) == {"serverAuth"}
    assert purposes(Role.NODE) == {"serverAuth", "clientAuth"}


def test_no_certificate_outlives_the_authority_or_can_sign_others() -> None:
    made = issue(life=CA_LIFE * 2)
    assert made.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.parametrize(("days", "due"), [(0, False), (334, False), (336, True), (366, True)])
def test_a_year_long_certificate_is_renewed_in_its_last_thirty_days(days: int, due: bool) -> None:
    assert expires_soon(issue(), NOW + timedelta(days=days)) == due


def test_a_short_certificate_is_renewed_when_a_third_of_it_is_left() -> None:
    made = issue(life=timedelta(hours=8))
    assert not expires_soon(made, NOW + timedelta(hours=4))
    assert expires_soon(made, NOW + timedelta(hours=6))


def crl(*serials: int, number: int = 1, authority: Authority = AUTHORITY) -> bytes:
    return authority.revocation_list(serials, number, NOW).public_bytes(Encoding.PEM)


def test_a_revoked_certificate_is_refused_and_another_of_the_same_node_is_not() -> None:
    stolen, renewed = issue(), issue()
    revoked = Revocations.read(crl(stolen.serial_number), AUTHORITY.certificate)
    with pytest.raises(Untrusted, match="is revoked") as refused:
        check_peer(stolen, revoked, NODES)
    assert refused.value.reason == "CertificateRevoked"
    assert check_peer(renewed, revoked, NODES).name == "pve1"


@pytest.mark.parametrize("pem", [b"", b"nonsense", certificate_pem(AUTHORITY.certificate)])
def test_what_is_no_revocation_list_is_refused(pem: bytes) -> None:
    with pytest.raises(BadRevocationList):
        Revocations.read(pem, AUTHORITY.certificate)


def test_a_revocation_list_of_another_authority_is_refused() -> None:
    other = Authority.create("default", NOW)
    with pytest.raises(BadRevocationList, match="not signed by this cluster"):
        Revocations.read(crl(authority=other), AUTHORITY.certificate)


def credentials(folder: Path, certificate: x509.Certificate | None = None) -> Credentials:
    key = new_key()
    made = certificate or AUTHORITY.issue(Identity("pve1", Role.NODE), key.public_key(), NOW)
    write(folder / "ca.crt", certificate_pem(AUTHORITY.certificate))
    write(folder / "node.crt", certificate_pem(made))
    write(folder / "node.key", key_pem(key), private=True)
    return Credentials(folder / "ca.crt", folder / "node.crt", folder / "node.key")


def test_an_older_revocation_list_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    mine = credentials(tmp_path)
    assert mine.revoke(crl(7, number=2))
    assert not mine.revoke(crl(number=1))
    assert mine.revoked.serials == {7}
    assert mine.revoke(crl(7, 8, number=3))


def test_an_agents_condition_tells_when_its_certificate_ends_and_what_to_run(tmp_path: Path) -> None:
    mine = credentials(tmp_path)
    assert mine.conditions(NOW + timedelta(days=200)) == ()
    (soon,) = mine.conditions(NOW + timedelta(days=350))
    assert soon.reason == "CertificateExpires"
    assert "expires in 15 days (2027-05-01). On pve1: holdfast renew" in soon.message
    (late,) = mine.conditions(NOW + timedelta(days=400))
    assert "has expired" in late.message
    mine.revoke(crl(mine.certificate.serial_number))
    (revoked,) = mine.conditions(NOW)
    assert revoked.reason == "CertificateRevoked"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_key_is_readable_by_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        AuthorityFiles(tmp_path / "ca").create("default", NOW)
        credentials(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / "ca" / "ca.key") == 0o600
    assert mode(tmp_path / "ca") == 0o700
    assert mode(tmp_path / "node.key") == 0o600
    assert mode(tmp_path / "node.crt") == 0o644


def test_a_second_authority_is_not_made_over_the_first(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path)
    first = files.create("default", NOW).certificate
    with pytest.raises(AuthorityError, match="there is an authority"):
        files.create("default", NOW)
    assert files.load().certificate == first


def test_the_authority_lists_what_it_issued_and_revokes_by_name(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path)
    authority = files.create("default", NOW)
    for name, role in (("pve1", Role.NODE), ("pve1", Role.COORDINATOR), ("pve2", Role.NODE)):
        files.issue(Identity(name, role), new_key().public_key(), NOW)
    assert [str(each.identity) for each in files.issued()] == ["coordinator pve1", "node pve1", "node pve2"]
    (revoked,) = files.revoke("pve1", NODES, NOW)
    assert [each.revoked for each in files.issued()] == [False, True, False]
    listed = Revocations.read(files.revocation_list, authority.certificate)
    assert (listed.serials, listed.number) == ({revoked.certificate.serial_number}, 2)
    assert files.revoke("pve1", NODES, NOW) == [], "what is revoked stays so"
    with pytest.raises(AuthorityError, match="no certificate was issued for pve9"):
        files.revoke("pve9", NODES, NOW)


def test_a_key_of_another_authority_is_not_used(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path)
    files.create("default", NOW)
    write(tmp_path / "ca.key", Authority.create("default", NOW).key_pem, private=True)
    with pytest.raises(AuthorityError, match="do not belong together"):
        files.load()
    with pytest.raises(AuthorityError, match="is on the machine where holdfast init ran"):
        AuthorityFiles(tmp_path / "elsewhere").load()
