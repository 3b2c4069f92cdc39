"""Config vars at rest: sealed with AES-256-GCM under a key file outside the database.

Sealed form: one version byte, a nonce of 12 bytes, ciphertext and tag. The associated data is the app's id, so that a
value copied to another app's row does not open.
"""

import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipway.platform.errors import ShipwayError
from shipway.platform.files import secret_file
from shipway.platform.settings import Settings

VERSION = b"\x01"
NONCE = 12


class Sealed(ShipwayError):
    """A sealed value does not open: the key file is not the one it was sealed with."""

    status = 500


class Vault:
    """Seals and opens the config of apps."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.secrets / "config.key"
        self._cipher = AESGCM(secret_file(self._path))

    def seal(self, app_id: int, config: Mapping[str, str]) -> bytes:
        """The sealed form of an app's config."""
        nonce = os.urandom(NONCE)
        raw = json.dumps(dict(config), sort_keys=True).encode()
        return VERSION + nonce + self._cipher.encrypt(nonce, raw, _context(app_id))

    def open(self, app_id: int, sealed: bytes | None) -> dict[str, str]:
        """The config that `sealed` holds; empty for None. Raises Sealed."""
        if not sealed:
            return {}
        nonce, body = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
        try:
            config: dict[str, str] = json.loads(self._cipher.decrypt(nonce, body, _context(app_id)))
        except InvalidTag:
            raise Sealed(
                f"The config of app {app_id} was sealed with another key than {self._path}."
            ) from None
        return config


def _context(app_id: int) -> bytes:
    return f"app:{app_id}".encode()
