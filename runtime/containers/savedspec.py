"""A container's specification as JSON and back, by the types of its fields."""

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shipway.runtime.spec import ContainerSpec


def dump(spec: ContainerSpec) -> bytes:
    """The specification as JSON."""
    return json.dumps(_plain(spec)).encode()


def load(data: bytes) -> ContainerSpec:
    """The specification that `dump` wrote; fields it does not hold have their defaults.

    Raises ValueError, KeyError or TypeError for anything else.
    """
    spec = _typed(ContainerSpec, json.loads(data))
    assert isinstance(spec, ContainerSpec)
    return spec


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(each) for each in value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return None  # a secret's: it is kept in memory, and never written down
    return str(value) if isinstance(value, Path) else value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(kind: Any, value: Any) -> Any:
    """What `_plain` made of a value of that type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or origin is Literal:
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        [kind] = [each for each in arguments if each is not types.NoneType]
        return _typed(kind, value)
    if origin is tuple:
        if arguments[-1] is ...:
            return tuple(_typed(arguments[0], each) for each in value)
        return tuple(_typed(one, each) for one, each in zip(arguments, value, strict=True))
    if origin is frozenset:
        return frozenset(_typed(arguments[0], each) for each in value)
    if origin is not None:  # a Mapping
        return {name: _typed(arguments[1], each) for name, each in value.items()}
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _typed(hints[name], each) for name, each in value.items()})  # type: ignore[operator]
    return kind(value)
