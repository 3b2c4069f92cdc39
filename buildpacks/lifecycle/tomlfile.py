"""TOML files that strangers wrote. Ours are written by kit/toml.py."""

import os
import tomllib
from typing import Any

from shipway.buildpacks.lifecycle.errors import InvalidOutput

LARGEST = 1 << 20  # bytes


def read(path: str) -> dict[str, Any]:
    """The document, empty when there is no such file. Raises InvalidOutput."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidOutput(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    if len(data) > LARGEST:
        raise InvalidOutput(f"{path} is larger than 1 MB")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidOutput(f"{path} is not valid TOML: {error}") from error
