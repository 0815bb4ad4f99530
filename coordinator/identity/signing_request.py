"""What a machine sends to get a certificate: its public key, and the proof that it has the private one (PKCS #10).

The subject in it counts for nothing: whose certificate it becomes is decided by the authority.
"""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    """As PEM."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def requested_key(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request. Raises ValueError if it is none, or not signed by its own key."""
    request = x509.load_pem_x509_csr(pem.encode())
    key = request.public_key()
    if not request.is_signature_valid:
        raise ValueError("the request was not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the request's key is not one on the curve P-256")
    return key
