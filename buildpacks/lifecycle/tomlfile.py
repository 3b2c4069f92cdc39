"""TOML in and out. The standard library reads it only; what is written here is plain."""

import datetime as dt
import os
import tomllib
from collections.abc import Mapping, Sequence
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


def write(path: str, document: Mapping[str, Any]) -> None:
    """Write a document that `dumps` can express."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(dumps(document))


def dumps(document: Mapping[str, Any]) -> str:
    """TOML of a mapping: tables one level deep are written as such, deeper ones inline."""
    lines = [
        f"{_key(key)} = {_value(value)}\n"
        for key, value in document.items()
        if not isinstance(value, Mapping)
    ]
    for key, value in document.items():
        if isinstance(value, Mapping):
            lines.append(f"[{_key(key)}]\n")
            lines += [f"{_key(name)} = {_value(inner)}\n" for name, inner in value.items()]
    return "".join(lines)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return "{" + inner + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise TypeError(f"TOML has no form for {type(value).__name__}")


def _string(text: str) -> str:
    out = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character < " " or character == "\x7f":
            out.append(f"\\u{ord(character):04X}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'
