"""Java's own form of a bundle of certificates: a key store of the kind JKS, without secrets."""

import base64
import hashlib
import re
import struct

_MAGIC, _VERSION, _CERTIFICATE = 0xFEEDFEED, 2, 2
_WHITENER = b"Mighty Aphrodite"  # what the format adds to the password before the digest
PASSWORD = "changeit"
_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL | re.ASCII
)


def from_pem(text: str) -> bytes:
    """The store with each certificate of a PEM bundle; the same text gives the same bytes."""
    certificates = [base64.b64decode(match) for match in _PEM.findall(text)]
    parts = [struct.pack(">III", _MAGIC, _VERSION, len(certificates))]
    for number, certificate in enumerate(certificates):
        parts += [
            struct.pack(">I", _CERTIFICATE),
            _text(f"certificate-{number}"),
            struct.pack(">Q", 0),  # the time of adding
            _text("X.509"),
            struct.pack(">I", len(certificate)),
            certificate,
        ]
    content = b"".join(parts)
    digest = hashlib.sha1(PASSWORD.encode("utf-16-be") + _WHITENER + content).digest()  # noqa: S324
    return content + digest


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
