"""What an app.json says of deploys: `healthchecks`, in Dokku's form, and `scripts.postdeploy`. Checked as it is built.

It becomes the release's manifest: {"checks": {process type: [a check's fields]}, "postdeploy": a shell's command}.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shipway.buildpacks.appjson.appjson import LARGEST, NAME
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.imageprocesses import read
from shipway.buildpacks.kit import jsonfile
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.workers.errors import WorkFailed

Manifest = dict[str, Any]
Field = tuple[Callable[[Any], bool], str]

TYPES = ("startup", "readiness", "liveness")
# A check looks at one thing.
WAYS = ("path", "command", "listening", "uptime")
MOST = 20  # checks of a process type
LONGEST = 3600  # seconds of any one time
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")


def manifest(source: Path) -> Manifest:
    """That of the app in a folder, {} without an app.json. Raises WorkFailed with the file and the line."""
    if not os.path.lexists(source / NAME):
        return {}
    try:
        data = read(source, NAME, LARGEST + 1)
        text = data.decode("utf-8-sig")
    except BuildFailed as error:
        raise WorkFailed(f"{error}.") from None
    except UnicodeDecodeError:
        raise WorkFailed(f"{NAME} is no text in UTF-8.") from None
    if len(data) > LARGEST:
        raise WorkFailed(f"{NAME} is larger than {LARGEST >> 20} MB.")
    try:
        return parse(text)
    except CannotBuild as error:
        raise WorkFailed(" ".join(error.lines)) from None


def parse(text: str) -> Manifest:
    """Raises CannotBuild."""
    document = jsonfile.parse(NAME, text)
    found: Manifest = {}
    if checks := _checks(document.get("healthchecks"), text):
        found["checks"] = checks
    if command := _postdeploy(document.get("scripts"), text):
        found["postdeploy"] = command
    return found


def strangers(found: Manifest, processes: Mapping[str, str]) -> list[str]:
    """Process types that have checks, and that there are none of."""
    return sorted(set(found.get("checks", ())) - set(processes))


def _checks(value: Any, text: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise jsonfile.wrong(NAME, text, "healthchecks", value, "an object")
    found = {}
    for kind, checks in value.items():
        if not isinstance(checks, list):
            raise jsonfile.wrong(NAME, text, kind, checks, "a list", f"healthchecks.{kind}")
        if len(checks) > MOST:
            raise _bad(text, kind, f"healthchecks.{kind} has {len(checks)}, at most {MOST} are run")
        found[kind] = [
            _check(check, text, f"healthchecks.{kind}[{number}]", kind)
            for number, check in enumerate(checks)
        ]
    return found


def _check(value: Any, text: str, place: str, kind: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise jsonfile.wrong(NAME, text, kind, value, "an object", place)
    for key, item in value.items():
        if key not in FIELDS:
            known = ", ".join(FIELDS)
            raise _bad(
                text, key, f"{place}.{key} is no field of a health check; there are: {known}"
            )
        fits, expected = FIELDS[key]
        if not fits(item):
            raise _bad(text, key, f"{place}.{key} is {str(item)[:60]!r}, expected {expected}")
    if "type" not in value:
        raise _bad(text, kind, f"{place} has no type, expected one of {', '.join(TYPES)}")
    ways = [way for way in WAYS if way in value]
    if len(ways) > 1:
        raise _bad(text, ways[1], f"{place} has {' and '.join(ways)}, expected one of them")
    if "uptime" in value and value["type"] != "startup":
        raise _bad(text, "uptime", f"{place} has an uptime, which is for checks of type startup")
    return value


def _postdeploy(value: Any, text: str) -> str:
    """Dokku's place for it, `scripts.dokku.postdeploy`, else `scripts.postdeploy`."""
    if not isinstance(value, dict):
        return ""  # the buildpack that runs predeploy complains
    inner = value.get("dokku")
    for place in (inner if isinstance(inner, dict) else {}, value):
        command = place.get("postdeploy")
        if command is None:
            continue
        if not isinstance(command, str):
            raise jsonfile.wrong(
                NAME, text, "postdeploy", command, "a string", "scripts.postdeploy"
            )
        return command.strip()
    return ""


def _bad(text: str, key: str, message: str) -> CannotBuild:
    return CannotBuild(f"{NAME} line {jsonfile.line(text, key)}: {message}.")


# -- fields -------------------------------------------------------------------------------------


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        )

    return fits


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 2000 and value.isprintable()


def _is_path(value: Any) -> bool:
    return _is_line(value) and value.startswith("/") and " " not in value and value.isascii()


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_command(value: Any) -> bool:
    words = [value] if isinstance(value, str) else value
    return (
        isinstance(words, list)
        and 0 < len(words) <= 100
        and all(isinstance(word, str) and "\0" not in word for word in words)
        and bool(words[0].strip())
    )


def _are_headers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 50
        and all(
            isinstance(each, dict)
            and set(each) == {"name", "value"}
            and isinstance(each["name"], str)
            and HEADER.fullmatch(each["name"]) is not None
            and _is_line(each["value"])
            for each in value
        )
    )


SECONDS = f"seconds from 0 to {LONGEST}"
FIELDS: dict[str, Field] = {
    "type": (lambda value: value in TYPES, f"one of {', '.join(TYPES)}"),
    "name": (_is_line, "a line of text"),
    "path": (_is_path, "a path such as /healthz"),
    "port": (_is_whole(1, 65535), "a port from 1 to 65535"),
    "scheme": (lambda value: value in ("http", "https", "HTTP", "HTTPS"), "http or https"),
    "status": (_is_whole(100, 599), "a status of HTTP such as 204"),
    "content": (_is_line, "a line of text"),
    "httpHeaders": (_are_headers, 'a list of {"name": …, "value": …}'),
    "command": (_is_command, "a list of words"),
    "listening": (_is_bool, "true or false"),
    "uptime": (_is_number(0, LONGEST), SECONDS),
    "attempts": (_is_whole(1, 1000), "a whole number from 1 to 1000"),
    "timeout": (_is_number(0.1, LONGEST), f"seconds from 0.1 to {LONGEST}"),
    "wait": (_is_number(0.1, LONGEST), f"seconds from 0.1 to {LONGEST}"),
    "initialDelay": (_is_number(0, LONGEST), SECONDS),
    "warn": (_is_bool, "true or false"),
    "onFailure": (lambda value: isinstance(value, dict), "an object"),
}
