"""A machine's own files below /etc/holdfast: identities in pki/, and the settings of what runs there."""

import contextlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from holdfast.coordinator.identity.authority import certificate_pem, key_pem
from holdfast.coordinator.identity.files import write
from holdfast.coordinator.identity.identity import Role

DEFAULT = Path("/etc/holdfast")
_USERS = {Role.MEMBER: "etcd", Role.COORDINATOR: "holdfast-coordinator"}
"""As whom runs what is not root, and reads its key (systemd/sysusers.conf)."""

F = TypeVar("F", bound=Callable[..., Any])


def folder_option(function: F) -> F:
    """`--dir`: another place than /etc/holdfast."""
    option = click.option(
        "--dir",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT,
        envvar="HOLDFAST_DIR",
        show_default=True,
        help="Where certificates and settings are.",
    )
    return option(function)


class Machine:
    """The files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "ca"
        self._pki = folder / "pki"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self._pki / "ca.crt"

    def certificate(self, role: Role) -> Path:
        """This machine's certificate in a role."""
        return self._pki / f"{role}.crt"

    def key(self, role: Role) -> Path:
        """Its private key."""
        return self._pki / f"{role}.key"

    def has(self, role: Role) -> bool:
        """Whether it has both."""
        return self.certificate(role).exists() and self.key(role).exists()

    def roles(self) -> list[Role]:
        """Those that it has an identity in."""
        return [role for role in Role if self.has(role)]

    def keep_authority(self, pem: bytes) -> None:
        """Trust this authority."""
        write(self.ca, pem)

    @property
    def revocations(self) -> Path:
        """The revocation list, for etcd (`--client-crl-file`)."""
        return self._pki / "crl.pem"

    def keep_revocations(self, pem: bytes) -> None:
        """Replace the list; etcd reads it at each connection."""
        write(self.revocations, pem)

    def keep(self, role: Role, certificate: bytes | x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Write an identity: the key first, for a certificate without its key would be used by nobody."""
        pem = certificate_pem(certificate) if isinstance(certificate, x509.Certificate) else certificate
        write(self.key(role), key_pem(key), private=True)
        write(self.certificate(role), pem)
        if user := _USERS.get(role):
            with contextlib.suppress(KeyError, PermissionError):  # it does not run here, or as somebody else
                os.chown(self.key(role), pwd.getpwnam(user).pw_uid, -1)

    def write_settings(self, name: str, cluster: str, endpoints: tuple[str, ...]) -> list[Path]:
        """Settings for each role that is here, where there are none yet; the files that were written."""
        shared: dict[str, object] = {"endpoints": list(endpoints), "cluster": cluster, "ca": str(self.ca)}
        wanted: dict[str, dict[str, object]] = {}
        if self.has(Role.NODE):
            wanted["agent.yaml"] = shared | self._own(Role.NODE) | {"node": name}
            if self.has(Role.MIRROR):
                mirror = {"mirror_cert": str(self.certificate(Role.MIRROR)), "mirror_key": str(self.key(Role.MIRROR))}
                wanted["agent.yaml"] |= mirror | {"mirror": "/etc/pve"}
        if self.has(Role.COORDINATOR):
            wanted["coordinator.yaml"] = shared | self._own(Role.COORDINATOR) | {"name": name}
        if self.has(Role.OPERATOR):
            wanted["operator.yaml"] = shared | self._own(Role.OPERATOR)
        written = []
        for file, settings in wanted.items():
            path = self.folder / file
            if not path.exists():
                write(path, yaml.safe_dump(settings, sort_keys=False).encode())
                written.append(path)
        return written

    def _own(self, role: Role) -> dict[str, object]:
        return {"cert": str(self.certificate(role)), "key": str(self.key(role))}
