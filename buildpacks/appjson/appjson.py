"""The app.json: the parts of it that a build makes use of, checked with exact lines."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import jsonfile
from shipway.buildpacks.kit.errors import CannotBuild

NAME = "app.json"
LARGEST = 1 << 20  # bytes
GENERATORS = ("secret",)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AppJson(NamedTuple):
    """What of an app.json a build uses.

    `env` are values by name, `generated` names that want a secret of their own, `required` names
    that have no value here. `predeploy` is a command for a shell, or empty.
    """

    env: Mapping[str, str]
    generated: tuple[str, ...]
    required: tuple[str, ...]
    predeploy: str


def parse(text: str) -> AppJson:
    """Raises CannotBuild with the file, the line and what was expected."""
    document = jsonfile.parse(NAME, text)
    env: dict[str, str] = {}
    generated, required = [], []
    for name, item in _object(document, text, "env").items():
        if not _VARIABLE.fullmatch(name):
            raise CannotBuild(
                f"{NAME} line {jsonfile.line(text, name)}: {name[:40]!r} is no name of a variable,"
                " expected letters, digits and '_'."
            )
        if isinstance(item, str):
            env[name] = item
            continue
        if not isinstance(item, dict):
            expected = "a string, or an object with a value"
            raise jsonfile.wrong(NAME, text, name, item, expected, f"env.{name}")
        value, generator = item.get("value"), item.get("generator")
        if value is not None and not isinstance(value, str):
            raise jsonfile.wrong(NAME, text, name, value, "a string", f"env.{name}.value")
        if generator is not None and generator not in GENERATORS:
            raise CannotBuild(
                f"{NAME} line {jsonfile.line(text, name)}: env.{name}.generator is"
                f" {str(generator)[:40]!r}, expected 'secret'."
            )
        if value is not None:
            env[name] = value
        elif generator:
            generated.append(name)
        elif item.get("required", True):
            required.append(name)
    return AppJson(env, tuple(generated), tuple(required), _predeploy(document, text))


def _predeploy(document: dict[str, Any], text: str) -> str:
    """Dokku's place for it, `scripts.dokku.predeploy`, else `scripts.predeploy`."""
    scripts = _object(document, text, "scripts")
    inner = scripts.get("dokku")
    places = [*([inner] if isinstance(inner, dict) else []), scripts]
    for place in places:
        command = place.get("predeploy")
        if command is None:
            continue
        if not isinstance(command, str):
            raise jsonfile.wrong(NAME, text, "predeploy", command, "a string", "scripts.predeploy")
        return command.strip()
    return ""


def _object(document: dict[str, Any], text: str, key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise jsonfile.wrong(NAME, text, key, value, "an object")
    return value
