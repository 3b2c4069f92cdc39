"""The files that buildpacks write, read strictly: a key of the wrong form is an error that names it."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.lifecycle import tomlfile
from shipway.buildpacks.lifecycle.errors import InvalidOutput
from shipway.buildpacks.lifecycle.plan import Option, Require

Table = Mapping[str, Any]

PROCESS_TYPE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+")
RESERVED_LAYERS = frozenset({"build", "launch", "store"})
_KINDS: dict[type, str] = {
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a table",
}


class LayerFlags(NamedTuple):
    """What a layer is for. All false: it is only the buildpack's scratch space."""

    launch: bool = False
    build: bool = False
    cache: bool = False


class Process(NamedTuple):
    """A process type of launch.toml. `direct` false: `command` is one line for a shell.

    `exec_env` names the execution environments that it is for; none is all.
    """

    type: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    direct: bool
    default: bool
    working_dir: str
    exec_env: tuple[str, ...] = ()


class Launch(NamedTuple):
    """launch.toml. A slice is the globs of what goes into a layer of the app's own."""

    processes: tuple[Process, ...]
    labels: Mapping[str, str]
    slices: tuple[tuple[str, ...], ...] = ()


def api_version(text: str) -> tuple[int, int]:
    """`0.10` as (0, 10), so that versions compare."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def plan_options(path: str) -> tuple[Option, ...]:
    """The alternatives of a build plan; a missing or empty file is one option without demands."""
    document = tomlfile.read(path)
    sections = [document, *_tables(document, "or", path)]
    return tuple(_option(section, path) for section in sections)


def _option(section: Table, path: str) -> Option:
    provides = tuple(_text(item, "name", path) for item in _tables(section, "provides", path))
    requires = []
    for item in _tables(section, "requires", path):
        if "version" in item:
            raise InvalidOutput(f"{path}: `version` of a requirement belongs in its metadata")
        metadata = _typed(item, "metadata", dict, {}, path)
        requires.append(Require(_text(item, "name", path), metadata))
    return Option(provides, tuple(requires))


def layer(path: str) -> tuple[LayerFlags, dict[str, Any]]:
    """Types and metadata of a `<layer>.toml`."""
    document = tomlfile.read(path)
    for key in LayerFlags._fields:
        if key in document:
            raise InvalidOutput(f"{path}: `{key}` must be in the table [types]")
    types = _typed(document, "types", dict, {}, path)
    flags = LayerFlags(*(_typed(types, key, bool, False, path) for key in LayerFlags._fields))
    return flags, _typed(document, "metadata", dict, {}, path)


def launch(path: str, api: tuple[int, int], app_dir: str) -> Launch:
    """What a launch.toml says, for a buildpack of that API."""
    document = tomlfile.read(path)
    processes = tuple(
        _process(item, path, api, app_dir) for item in _tables(document, "processes", path)
    )
    _no_duplicates((process.type for process in processes), "process type", path)
    if sum(process.default for process in processes) > 1:
        raise InvalidOutput(f"{path}: only one process type may be the default")
    labels = [
        (_text(item, "key", path), _typed(item, "value", str, "", path))
        for item in _tables(document, "labels", path)
    ]
    _no_duplicates((key for key, _ in labels), "label", path)
    slices = tuple(_strings(item, "paths", path) for item in _tables(document, "slices", path))
    return Launch(processes, dict(labels), slices)


def _process(item: Table, path: str, api: tuple[int, int], app_dir: str) -> Process:
    type_ = _text(item, "type", path)
    if not PROCESS_TYPE.fullmatch(type_):
        raise InvalidOutput(
            f"{path}: process type {type_!r} may only hold letters, digits, '.', '_' and '-'"
        )
    if api < (0, 9):
        command: tuple[str, ...] = (_text(item, "command", path),)
        direct = _typed(item, "direct", bool, False, path)
    else:
        if "direct" in item:
            raise InvalidOutput(f"{path}: process {type_!r}: `direct` ended with buildpack API 0.9")
        command = _strings(item, "command", path)
        direct = True
        if not command:
            raise InvalidOutput(f"{path}: process {type_!r} has no command")
    return Process(
        type=type_,
        command=command,
        args=_strings(item, "args", path),
        direct=direct,
        default=_typed(item, "default", bool, False, path),
        working_dir=_working_dir(item, path, api, app_dir),
        exec_env=_strings(item, "exec-env", path),
    )


def _working_dir(item: Table, path: str, api: tuple[int, int], app_dir: str) -> str:
    given: str = _typed(item, "working-dir", str, "", path)
    return app_dir if api < (0, 8) else os.path.join(app_dir, given).rstrip("/") or "/"


def unmet(path: str, names: Iterable[str]) -> set[str]:
    """Dependencies that a build.toml hands on; each must be one of its plan's `names`."""
    found = {_text(item, "name", path) for item in _tables(tomlfile.read(path), "unmet", path)}
    strange = found.difference(names)
    if strange:
        raise InvalidOutput(f"{path}: unmet entry {min(strange)!r} is not in the buildpack's plan")
    return found


def _no_duplicates(names: Iterable[str], what: str, path: str) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise InvalidOutput(f"{path}: {what} {name!r} appears twice")
        seen.add(name)


def _typed(table: Table, key: str, kind: type, default: Any, path: str) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise InvalidOutput(f"{path}: `{key}` must be {_KINDS[kind]}")
    return value


def _text(table: Table, key: str, path: str) -> str:
    value: str = _typed(table, key, str, "", path)
    if not value:
        raise InvalidOutput(f"{path}: `{key}` is missing or empty")
    return value


def _tables(table: Table, key: str, path: str) -> list[Table]:
    items: list[Table] = _typed(table, key, list, [], path)
    if not all(isinstance(item, dict) for item in items):
        raise InvalidOutput(f"{path}: `{key}` must be a list of tables")
    return items


def _strings(table: Table, key: str, path: str) -> tuple[str, ...]:
    items: list[Any] = _typed(table, key, list, [], path)
    if not all(isinstance(item, str) for item in items):
        raise InvalidOutput(f"{path}: `{key}` must be a list of strings")
    return tuple(items)
