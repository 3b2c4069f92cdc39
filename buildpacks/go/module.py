"""What a go.mod says: the module's path, the Go that it wants, the programs that it names."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from shipway.buildpacks.kit.errors import CannotBuild

_VERSION = re.compile(r"(?:go)?(\d+\.\d+)(?:\.(\d+))?")
_LINE = re.compile(r"(module|go|toolchain)\s+(\S+)")
_HEROKU = re.compile(r"//\s*\+heroku\s+(goVersion|install)\s+(.+)")


class Module(NamedTuple):
    """The lines of a go.mod that matter here; empty where there is none."""

    path: str
    go: str
    toolchain: str
    install: tuple[str, ...]


class Wanted(NamedTuple):
    """A Go that is asked for: `line` such as 1.24, perhaps a patch number, and who says so.

    `least` means that a newer line would do, too.
    """

    line: str
    patch: int | None
    source: str
    least: bool

    @property
    def requirements(self) -> tuple[str, ...]:
        """What to ask the package index for, the best first."""
        major, minor = self.line.split(".")
        line = f">={self.line},<{major}.{int(minor) + 1}"
        if self.patch is None:
            return (line, f">={self.line}") if self.least else (line,)
        exact = f"=={self.line}.{self.patch}"
        newer = f">={self.line}.{self.patch},<{major}.{int(minor) + 1}"
        return (newer, f">={self.line}.{self.patch}") if self.least else (exact, newer)


def parse(text: str) -> Module:
    """Read a go.mod; go itself says what is wrong with one."""
    found: dict[str, str] = {}
    notes: dict[str, str] = {}
    for raw in text.splitlines():
        note = _HEROKU.match(raw.strip())
        if note:
            notes[note[1]] = note[2].strip()
        line = _LINE.match(raw.partition("//")[0].strip())
        if line:
            found.setdefault(line[1], line[2].strip('"'))
    return Module(
        found.get("module", ""),
        found.get("go", ""),
        notes.get("goVersion") or found.get("toolchain", ""),
        tuple(notes.get("install", "").split()),
    )


def wanted(module: Module, named: Sequence[tuple[str, str]]) -> Wanted | None:
    """The Go to use: what `named` says (pairs of source and text), else what go.mod does.

    None leaves the choice. Raises CannotBuild.
    """
    for source, text in (*named, ("go.mod", module.toolchain)):
        if text.strip() and text.strip() != "default":
            return _read(source, text.strip(), least=False)
    return _read("go.mod", module.go, least=True) if module.go else None


def _read(source: str, text: str, *, least: bool) -> Wanted:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise CannotBuild(
            f"{source} asks for Go {text[:40]!r}, which is no version that can be chosen.",
            "Expected one such as 1.25 or 1.25.4.",
        )
    return Wanted(match[1], int(match[2]) if match[2] else None, source, least)
