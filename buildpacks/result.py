"""What the lifecycle in the container says it made. Untrusted code may have written it."""

import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.buildpacks.errors import BuildFailed

LARGEST = 1 << 20  # bytes
MOST = 128  # layers, processes, labels
LONGEST = 32 * 1024  # characters of a command, label or variable
LAYER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
PROCESS_TYPE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,63}")
LABEL_KEY = re.compile(r"[ -~]{1,256}")
OWN_LABELS = ("io.buildpacks.", "io.shipway.")


@dataclass(frozen=True, slots=True)
class ResultLayer:
    """A layer to keep. `has_folder` false: the buildpack wants the previous image's."""

    buildpack: str
    name: str
    launch: bool
    build: bool
    cache: bool
    data: Mapping[str, Any]
    has_folder: bool


@dataclass(frozen=True, slots=True)
class ResultProcess:
    """A process type; `direct` false: `command` is one line for a shell.

    `exec_env` are the execution environments that it is for; none is all.
    """

    type: str
    buildpack: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    direct: bool
    default: bool
    working_dir: str
    exec_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The buildpacks that took part, in order, and what came out. `seconds` is by phase.

    A slice is the globs of what goes into a layer of its own; `default` is a process type.
    """

    group: tuple[str, ...]
    layers: tuple[ResultLayer, ...]
    processes: tuple[ResultProcess, ...]
    labels: Mapping[str, str]
    stores: Mapping[str, Any]
    slices: tuple[tuple[str, ...], ...]
    default: str | None
    seconds: Mapping[str, float]


class _Malformed(Exception):
    pass


def read(upper: Path, known: Collection[str]) -> Result:
    """The result in the overlay's upper folder. `known` are the ids of all buildpacks offered.

    Raises BuildFailed when it is missing or anything but what the lifecycle writes.
    """
    try:
        return parse(_content(upper), known)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, _Malformed) as error:
        raise BuildFailed(f"the build ended without a usable result ({error})") from error


def extended(upper: Path, known: Collection[str]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """The group and what to go on with, if image extensions have generated something; else None.

    Raises BuildFailed as `read`.
    """
    try:
        document = _typed(json.loads(_content(upper)), dict)
        if "selected" not in document:
            return None
        group = tuple(_known(id_, known) for id_ in _list(document["group"]))
        return group, _table(document["selected"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, _Malformed) as error:
        raise BuildFailed(f"the build ended without a usable result ({error})") from error


def parse(data: bytes, known: Collection[str]) -> Result:
    """The document, with every name, type and size checked."""
    document = _typed(json.loads(data), dict)
    group = tuple(_known(id_, known) for id_ in _list(document["group"]))
    layers = tuple(_layer(_typed(item, dict), group) for item in _list(document["layers"]))
    if len({(layer.buildpack, layer.name) for layer in layers}) < len(layers):
        raise _Malformed("a layer appears twice")
    labels = {
        _match(LABEL_KEY, key): _text(value)
        for key, value in _table(document["labels"]).items()
        if not key.startswith(OWN_LABELS)
    }
    return Result(
        group=group,
        layers=layers,
        processes=tuple(
            _process(_typed(item, dict), group) for item in _list(document["processes"])
        ),
        labels=labels,
        stores={
            _known(id_, group): _table(store) for id_, store in _table(document["stores"]).items()
        },
        slices=tuple(
            tuple(_text(glob) for glob in _list(item)) for item in _list(document["slices"])
        ),
        default=None if document["default"] is None else _text(document["default"]),
        seconds={
            phase: float(document["seconds"][phase])
            for phase in ("detect", "build")
            if phase in _table(document["seconds"])
        },
    )


def _content(upper: Path) -> bytes:
    """Read it without following a link or waiting on a pipe."""
    folder = os.open(upper / "config", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open("result.json", flags, dir_fd=folder), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _Malformed("it is no file")
            data = file.read(LARGEST + 1)
    finally:
        os.close(folder)
    if len(data) > LARGEST:
        raise _Malformed("it is larger than 1 MB")
    return data


def _layer(item: Mapping[str, Any], group: Collection[str]) -> ResultLayer:
    return ResultLayer(
        buildpack=_known(item["buildpack"], group),
        name=_match(LAYER_NAME, item["name"]),
        launch=_typed(item["launch"], bool),
        build=_typed(item["build"], bool),
        cache=_typed(item["cache"], bool),
        data=_table(item["data"]),
        has_folder=_typed(item["has_folder"], bool),
    )


def _process(item: Mapping[str, Any], group: Collection[str]) -> ResultProcess:
    command = tuple(_text(word) for word in _list(item["command"]))
    if not command:
        raise _Malformed("a process has no command")
    return ResultProcess(
        type=_match(PROCESS_TYPE, item["type"]),
        buildpack=_known(item["buildpack"], group),
        command=command,
        args=tuple(_text(word) for word in _list(item["args"])),
        direct=_typed(item["direct"], bool),
        default=_typed(item["default"], bool),
        working_dir=_text(item["working_dir"]),
        exec_env=tuple(_text(name) for name in _list(item["exec_env"])),
    )


def _known(id_: Any, known: Collection[str]) -> str:
    if id_ not in known:
        raise _Malformed(f"unknown buildpack {str(id_)[:40]!r}")
    return str(id_)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Malformed(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value


def _table(value: Any) -> dict[str, Any]:
    table: dict[str, Any] = _typed(value, dict)
    if len(table) > MOST:
        raise _Malformed("a table is too long")
    return table


def _list(value: Any) -> list[Any]:
    items: list[Any] = _typed(value, list)
    if len(items) > MOST:
        raise _Malformed("a list is too long")
    return items


def _text(value: Any) -> str:
    text: str = _typed(value, str)
    if len(text) > LONGEST or "\0" in text:
        raise _Malformed("a text is too long or holds a NUL")
    text.encode()  # lone surrogates are an error here rather than later
    return text


def _match(pattern: re.Pattern[str], value: Any) -> str:
    text = _text(value)
    if not pattern.fullmatch(text):
        raise _Malformed(f"{text[:40]!r} is no usable name")
    return text
