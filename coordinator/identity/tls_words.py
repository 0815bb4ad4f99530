"""What a TLS error means to an operator. OpenSSL's reasons are stable words; the text around them is not."""

import ssl

_RENEW = "Renew it there: holdfast renew"
TLS_FAILED = "TlsFailed"
"""The reason where identities are not at fault."""
_CAUSES = {
    # what we found wrong with theirs: X509_V_ERR_… (openssl/x509_vfy.h)
    10: ("CertificateExpired", f"its certificate has expired. {_RENEW}"),
    9: ("ClockDiffers", "its certificate is not valid yet. Compare the machines' clocks"),
    18: ("ForeignCertificate", "its certificate was not signed by this cluster's authority"),
    19: (
        "ForeignCertificate",
        "its certificate was signed by another cluster's authority",
    ),
    20: (
        "ForeignCertificate",
        "its certificate was signed by another authority than this cluster's. Join it to this cluster",
    ),
    7: (
        "ForeignCertificate",
        "its certificate was signed by an authority of the same name, but another key. Join it to this cluster",
    ),
    26: ("WrongRole", "its certificate is not one for this purpose"),
}
_REASONS = {
    # what they found wrong with ours (alerts), and what is no TLS
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "CertificateExpired",
        "it refused our certificate as expired. Renew it here: holdfast renew; else compare the clocks",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "ForeignCertificate",
        "it does not know the authority that signed our certificate: it belongs to another cluster",
    ),
    "TLSV1_ALERT_DECRYPT_ERROR": (
        "ForeignCertificate",
        "it refused our certificate's signature: the authority was made anew. Join again",
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("ForeignCertificate", "it refused our certificate"),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": ("WrongRole", "it refused our certificate: not one for this purpose"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("NoCertificate", "it wants a certificate and got none"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("NoCertificate", "it showed no certificate. Join it: holdfast join"),
    "WRONG_VERSION_NUMBER": ("PlainRefused", "it does not speak TLS. Give its agent a certificate: holdfast join"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("OldTls", "it does not speak TLS 1.3"),
    "UNSUPPORTED_PROTOCOL": ("OldTls", "it does not speak TLS 1.3"),
}


def explain(error: ssl.SSLError) -> tuple[str, str]:
    """A CamelCase reason, and the end of a sentence that begins with the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _CAUSES.get(error.verify_code)
        return known or ("ForeignCertificate", f"its certificate was refused: {error.verify_message}")
    return _REASONS.get(error.reason or "", (TLS_FAILED, f"TLS failed: {error.reason or error}"))
