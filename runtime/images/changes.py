"""--change of import and commit: Dockerfile instructions that only touch an image's config."""

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from shipway.runtime.errors import InvalidImage

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_SHELL = ["/bin/sh", "-c"]


def apply(document: dict[str, Any], instructions: Iterable[str]) -> None:
    """Change an image's whole config by those instructions. Raises InvalidImage for a wrong one."""
    run = dict(document.get("config") or {})
    done = set()
    for line in instructions:
        name, _, rest = line.strip().partition(" ")
        change = _INSTRUCTIONS.get(name.upper())
        if change is None:
            raise InvalidImage(
                f"--change {line!r} is not known; it may be {', '.join(sorted(_INSTRUCTIONS))}"
            )
        if not rest.strip():
            raise InvalidImage(f"--change {line!r} lacks what {name.upper()} is to be")
        try:
            change(run, rest.strip())
        except ValueError as error:
            raise InvalidImage(f"--change {line!r} is malformed: {error}") from error
        done.add(name.upper())
    if "ENTRYPOINT" in done and "CMD" not in done:
        run.pop("Cmd", None)  # the base's arguments are not this program's
    document["config"] = run


def _words(text: str) -> list[str] | None:
    """The list in the form of JSON, or None if it is of the other form."""
    if not text.startswith("["):
        return None
    found = json.loads(text)
    if not all(isinstance(each, str) for each in found):
        raise ValueError("a list must hold strings only")
    return list(found)


def _command(key: str) -> Callable[[dict[str, Any], str], None]:
    def change(run: dict[str, Any], text: str) -> None:
        words = _words(text)
        run[key] = [*_SHELL, text] if words is None else words

    return change


def _pairs(text: str) -> list[tuple[str, str]]:
    """`NAME=VALUE …` with quotes, or Docker's old form `NAME VALUE`."""
    words = shlex.split(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value:
            raise ValueError("NAME=VALUE is wanted")
        return [(name, value.strip())]
    pairs = [word.partition("=") for word in words]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("NAME=VALUE is wanted")
    return [(name, value) for name, _, value in pairs]


def _env(run: dict[str, Any], text: str) -> None:
    old = dict(item.partition("=")[::2] for item in run.get("Env") or ())
    run["Env"] = [f"{name}={value}" for name, value in (old | dict(_pairs(text))).items()]


def _label(run: dict[str, Any], text: str) -> None:
    run["Labels"] = (run.get("Labels") or {}) | dict(_pairs(text))


def _expose(run: dict[str, Any], text: str) -> None:
    ports = dict(run.get("ExposedPorts") or {})
    for word in text.split():
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 1 <= first <= last <= 65535:
            raise ValueError(f"{word!r} is no port; one is like 80, 80/tcp or 8000-8010/udp")
        ports |= {f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)}
    run["ExposedPorts"] = ports


def _volume(run: dict[str, Any], text: str) -> None:
    found = _words(text)
    paths = shlex.split(text) if found is None else found
    run["Volumes"] = (run.get("Volumes") or {}) | {path: {} for path in paths}


def _workdir(run: dict[str, Any], text: str) -> None:
    run["WorkingDir"] = posixpath.normpath(posixpath.join(run.get("WorkingDir") or "/", text))


def _onbuild(run: dict[str, Any], text: str) -> None:
    if text.split(maxsplit=1)[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise ValueError(f"{text.split(maxsplit=1)[0].upper()} cannot be put off")
    run["OnBuild"] = [*(run.get("OnBuild") or ()), text]


def _plain(key: str) -> Callable[[dict[str, Any], str], None]:
    def change(run: dict[str, Any], text: str) -> None:
        run[key] = text

    return change


_INSTRUCTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _plain("StopSignal"),
    "USER": _plain("User"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
