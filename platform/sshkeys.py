"""Public SSH keys in OpenSSH's one-line form."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from shipway.platform.errors import InvalidInput

KINDS = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
MIN_RSA = 2048  # bits
MAX_LINE = 16_384  # characters: an RSA key of 16,384 bits needs 2,800
EXPECTED = "expected one line such as `ssh-ed25519 AAAA… you@laptop`"


@dataclass(frozen=True)
class PublicKey:
    """A key that was parsed: `line` is kind and base64 only, `fingerprint` as `ssh-keygen -l` prints it."""

    kind: str
    line: str
    comment: str
    fingerprint: str


def parse(text: str) -> PublicKey:
    """Read one key. Raises InvalidInput for anything else, a private key or several keys among it."""
    if "PRIVATE KEY" in text:
        raise InvalidInput(
            "This is a private key: give the public one, the file that ends in .pub."
        )
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or len(lines[0]) > MAX_LINE:
        raise InvalidInput(f"No public key or several were given; {EXPECTED}.")
    kind, _, rest = lines[0].strip().partition(" ")
    if kind not in KINDS:
        raise InvalidInput(f"{kind[:40]!r} is no kind of key that is taken; {EXPECTED}.")
    encoded, _, comment = rest.strip().partition(" ")
    blob = _decode(encoded)
    fields = _fields(blob)
    if not fields or fields[0] != kind.encode():
        raise InvalidInput(f"The key is damaged: its text and its content differ; {EXPECTED}.")
    if kind == "ssh-rsa":
        _check_rsa(fields)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(kind, f"{kind} {encoded}", _printable(comment), f"SHA256:{digest}")


def _decode(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"The key is damaged: it is no base64; {EXPECTED}.") from None


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings of a key (RFC 4253, 6.6); empty if they do not fill it exactly."""
    found = []
    while blob:
        size = int.from_bytes(blob[:4])
        if len(blob) < 4 + size:
            return []
        found.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return found


def _check_rsa(fields: list[bytes]) -> None:
    bits = int.from_bytes(fields[2]).bit_length() if len(fields) == 3 else 0
    if bits < MIN_RSA:
        raise InvalidInput(
            f"An RSA key of {bits} bits is too weak: make one with `ssh-keygen -t ed25519`."
        )


def _printable(comment: str) -> str:
    return "".join(char for char in comment.strip() if char.isprintable())
