"""The app's package.json: what of it a build needs, checked with exact lines."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import files
from shipway.buildpacks.kit.errors import CannotBuild

NAME = "package.json"
LARGEST = 1 << 20  # bytes
MANAGERS = ("npm", "yarn", "pnpm", "bun")
_PACKAGE_MANAGER = re.compile(r"([a-z]+)@(\d[0-9A-Za-z.-]*)(?:\+([a-z0-9]+\.[0-9a-fA-F]+))?")
_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class PackageManager(NamedTuple):
    """What `packageManager` says: `pnpm@9.1.0+sha512.abc…`. `digest` may be empty."""

    name: str
    version: str
    digest: str


class Manifest(NamedTuple):
    """A package.json."""

    scripts: Mapping[str, str]
    engines: Mapping[str, str]
    dependencies: frozenset[str]
    manager: PackageManager | None
    workspaces: bool
    main: str

    def depends_on(self, name: str) -> bool:
        """Whether a package is among the direct dependencies, of whatever kind."""
        return name in self.dependencies


def read() -> Manifest:
    """The app's own. Raises CannotBuild with the file, the line and what was expected."""
    return parse(files.text(NAME, LARGEST))


def parse(text: str) -> Manifest:
    """The manifest in `text`. Raises CannotBuild."""
    try:
        document = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, text))
    except json.JSONDecodeError as error:
        raise CannotBuild(
            f"{NAME} line {error.lineno}, column {error.colno}: {_plain(error.msg)}.",
            "Expected JSON: names and strings in double quotes, no comments, no comma after the last.",
        ) from None
    except RecursionError:
        raise CannotBuild(f"{NAME} is nested too deeply to be read.") from None
    if not isinstance(document, dict):
        raise CannotBuild(
            f"{NAME} line 1: has {_KINDS[type(document)]} at its top, expected an object in braces."
        )
    reader = _Reader(document, text)
    names: set[str] = set()
    for kind in ("dependencies", "devDependencies", "optionalDependencies"):
        names.update(reader.strings(kind))
    workspaces = document.get("workspaces")
    if workspaces is not None and not isinstance(workspaces, (list, dict)):
        raise reader.wrong("workspaces", workspaces, "a list of folders")
    main = document.get("main")
    return Manifest(
        scripts=reader.strings("scripts"),
        engines=reader.strings("engines") if isinstance(document.get("engines"), dict) else {},
        dependencies=frozenset(names),
        manager=reader.manager(),
        workspaces=bool(workspaces),
        main=main if isinstance(main, str) else "",
    )


class _Reader:
    """Keys of the document, with errors that name their line."""

    def __init__(self, document: dict[str, Any], text: str) -> None:
        self._document = document
        self._text = text

    def strings(self, key: str) -> dict[str, str]:
        value = self._document.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object of strings")
        for name, item in value.items():
            if not isinstance(item, str):
                raise self.wrong(name, item, "a string", f"{key}.{name}")
        return value

    def manager(self) -> PackageManager | None:
        value = self._document.get("packageManager")
        if value is None:
            return None
        match = _PACKAGE_MANAGER.fullmatch(value) if isinstance(value, str) else None
        if match is None or match.group(1) not in MANAGERS:
            raise CannotBuild(
                f"{NAME} line {_line(self._text, 'packageManager')}: packageManager is"
                f" {json.dumps(value)[:60]}, expected a name and a full version such as pnpm@9.15.0;"
                f" the names are {', '.join(MANAGERS)}.",
            )
        return PackageManager(match.group(1), match.group(2), match.group(3) or "")

    def wrong(self, key: str, value: Any, expected: str, shown: str = "") -> CannotBuild:
        return CannotBuild(
            f"{NAME} line {_line(self._text, key)}: {shown or key} is {_KINDS[type(value)]},"
            f" expected {expected}."
        )


def _once(pairs: list[tuple[str, Any]], text: str) -> dict[str, Any]:
    """Scripts and dependencies that are there twice: JSON takes the last, and nobody meant that."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen and name in ("scripts", "dependencies", "devDependencies", "engines"):
                line = _line(text, name, last=True)
                raise CannotBuild(f"{NAME} line {line}: {name!r} is there twice, expected it once.")
            seen.add(name)
    return found


def _line(text: str, key: str, *, last: bool = False) -> int:
    """The line on which a key stands, as well as can be told without positions from the parser."""
    places = [match.start() for match in re.finditer(re.escape(json.dumps(key)) + r"\s*:", text)]
    return text.count("\n", 0, places[-1 if last else 0]) + 1 if places else 1


def _plain(message: str) -> str:
    return {
        "Expecting value": "a value is missing or is not JSON",
        "Expecting property name enclosed in double quotes": "a name in double quotes is missing",
        "Illegal trailing comma before end of object": "there is a comma after the last name",
        "Illegal trailing comma before end of array": "there is a comma after the last value",
        "Expecting ',' delimiter": "a comma or the closing bracket is missing",
        "Expecting ':' delimiter": "a colon is missing",
        "Extra data": "there is more after the closing brace",
        "Unterminated string starting at": "a string has no closing quote",
        "Invalid control character at": "a string goes over the end of its line",
    }.get(message, message[:1].lower() + message[1:])
