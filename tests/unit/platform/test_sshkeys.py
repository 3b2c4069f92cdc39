"""Public SSH keys as people paste them."""

import base64
import subprocess
from pathlib import Path

import pytest

from shipway.platform.errors import InvalidInput
from shipway.platform.sshkeys import parse


@pytest.mark.parametrize(
    "kind", [("ed25519",), ("ecdsa",), ("rsa", "-b", "2048")], ids=lambda kind: kind[0]
)
def test_real_keys(tmp_path: Path, kind: tuple[str, ...]) -> None:
    """A key made by ssh-keygen is taken, and its fingerprint is the one ssh-keygen prints."""
    path = tmp_path / "key"
    argv = ["ssh-keygen", "-q", "-N", "", "-C", "me at home", "-f", str(path), "-t", *kind]
    subprocess.run(argv, check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True)
    text = path.with_suffix(".pub").read_text()
    key = parse(f"\n  # a comment\n{text}\n".replace("  #", "#"))
    assert key.fingerprint == shown.stdout.split()[1]
    assert key.comment == "me at home"
    assert key.line == " ".join(text.split()[:2])


def wire(*fields: bytes) -> str:
    """A key's base64 with these fields."""
    return base64.b64encode(b"".join(len(f).to_bytes(4) + f for f in fields)).decode()


GOOD = "ssh-ed25519 " + wire(b"ssh-ed25519", b"k" * 32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No public key"),
        (f"{GOOD}\n{GOOD}", "several"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx", "private key"),
        ("ssh-dss AAAA", "no kind of key"),
        (f"command=x {GOOD}", "no kind of key"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 %%%%", "base64"),
        ("ssh-ed25519 ä", "base64"),
        ("ssh-ed25519 " + wire(b"ssh-rsa", b"x"), "damaged"),
        ("ssh-ed25519 " + wire(b"ssh-ed25519", b"k" * 32)[:-4], "damaged"),
        ("ssh-rsa " + wire(b"ssh-rsa", b"\3", b"\1" * 128), "too weak"),
        ("ssh-rsa " + wire(b"ssh-rsa"), "too weak"),
        ("x" * 20_000, "No public key"),
    ],
)
def test_what_is_no_key(text: str, said: str) -> None:
    """Anything else is refused with what was wrong."""
    with pytest.raises(InvalidInput, match=said):
        parse(text)


def test_a_comment_cannot_steer_a_terminal() -> None:
    """Control characters do not get from a key's comment into its name."""
    assert parse(f"{GOOD} me\x1b[2J\x07").comment == "me[2J"
