"""TOML out, plain. For TOML in there is tomllib."""

from collections.abc import Mapping, Sequence
from typing import Any


def write(path: str, document: Mapping[str, Any]) -> None:
    """Write a document of strings, numbers, booleans, times, lists and tables.

    A table within a table is written inline; a list of tables as `[[key]]`.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write(dumps(document))


def dumps(document: Mapping[str, Any]) -> str:
    """The document as text."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += [f"[{_key(key)}]\n", *_pairs(value)]
        elif _is_tables(value):
            for item in value:
                tables += [f"[[{_key(key)}]]\n", *_pairs(item)]
        else:
            lines += _pairs({key: value})
    return "".join(lines + tables)


def string(text: str) -> str:
    """`text` as a basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c != "\x7f" else f"\\u{ord(c):04X}" for c in escaped) + '"'


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}\n" for key, value in table.items()]


def _is_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    import datetime as dt  # rare, and it need not be loaded in each build

    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    raise TypeError(f"TOML has no form for {type(value).__name__}")
