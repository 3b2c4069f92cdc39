"""The app's package.json: what of it a build needs, checked with exact lines."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import files, jsonfile
from shipway.buildpacks.kit.errors import CannotBuild

NAME = "package.json"
LARGEST = 1 << 20  # bytes
MANAGERS = ("npm", "yarn", "pnpm", "bun")
_PACKAGE_MANAGER = re.compile(r"([a-z]+)@(\d[0-9A-Za-z.-]*)(?:\+([a-z0-9]+\.[0-9a-fA-F]+))?")


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
    document = jsonfile.parse(NAME, text, lambda pairs: _once(pairs, text))
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
                f"{NAME} line {jsonfile.line(self._text, 'packageManager')}: packageManager is"
                f" {json.dumps(value)[:60]}, expected a name and a full version such as pnpm@9.15.0;"
                f" the names are {', '.join(MANAGERS)}.",
            )
        return PackageManager(match.group(1), match.group(2), match.group(3) or "")

    def wrong(self, key: str, value: Any, expected: str, shown: str = "") -> CannotBuild:
        return jsonfile.wrong(NAME, self._text, key, value, expected, shown)


def _once(pairs: list[tuple[str, Any]], text: str) -> dict[str, Any]:
    """Scripts and dependencies that are there twice: JSON takes the last, and nobody meant that."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen and name in ("scripts", "dependencies", "devDependencies", "engines"):
                line = jsonfile.line(text, name, last=True)
                raise CannotBuild(f"{NAME} line {line}: {name!r} is there twice, expected it once.")
            seen.add(name)
    return found
