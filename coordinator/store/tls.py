"""The certificates of the connections to etcd: read, read again when they change, and explained when they do not fit.

gRPC says of a failed handshake only that it could not connect; `explain` makes the handshake again and says why.
"""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

_LIMIT = 1.0  # seconds for a handshake, and again for a member that refuses our certificate to say so
_FOREIGN = "another authority signed it: `ca` must be the certificate of the one that signed etcd's"
_OTHER_NAME = "it was issued for another name or address: use one that is in it, or issue one that has this one"
_ADVICE = {
    "certificate has expired": "issue a new one to that member of etcd",
    "not yet valid": "compare the clocks of both machines",
    "mismatch": _OTHER_NAME,
    "not valid for": _OTHER_NAME,
    "self-signed": _FOREIGN,
    "local issuer": _FOREIGN,
}


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the CA that signed etcd's certificates, and the certificate and key to show to it."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def stamp(self) -> Stamp:
        """Changes when a file is replaced. OSError if one is missing."""
        found = [path.stat() for path in (self.ca, self.certificate, self.key) if path]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)

    def context(self) -> ssl.SSLContext:
        """Read the files; OSError (so is ssl.SSLError) if one cannot be used, or the key is another certificate's."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files for gRPC, which would take a key that does not fit and then never connect. OSError."""
        self.context()
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.certificate.read_bytes() if self.certificate else None,
        )


async def explain(endpoint: str, tls: Tls) -> str | None:
    """Why no connection to host:port comes about; None if certificates are not the reason."""
    host, _, port = endpoint.rpartition(":")
    try:
        context = await asyncio.to_thread(tls.context)
        async with asyncio.timeout(_LIMIT):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message
        advice = next(
            (advice for words, advice in _ADVICE.items() if words in said), "look at it with `openssl s_client`"
        )
        return f"the certificate of {endpoint} is not accepted ({said}); {advice}"
    except ssl.SSLError as error:
        return _refused(endpoint, tls, error)
    except (OSError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(_LIMIT):
            await reader.read(1)  # TLS 1.3: the member looks at our certificate after the handshake
    except ssl.SSLError as error:
        return _refused(endpoint, tls, error)
    except (OSError, TimeoutError):
        return None
    finally:
        writer.transport.abort()  # a frozen member would not take part in a farewell
    return None


def _refused(endpoint: str, tls: Tls, error: ssl.SSLError) -> str:
    said = (error.reason or str(error)).rpartition("ALERT_")[2].replace("_", " ").lower()
    return (
        f"{endpoint} refuses the certificate that it is shown ({tls.certificate or 'none'}): {said}. It must be within "
        "its time (`openssl x509 -noout -dates -in FILE`), for clients, and signed by the authority that etcd trusts"
    )
