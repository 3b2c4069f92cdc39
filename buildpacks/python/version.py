"""Which Python the app asks for, and whether the stack's can be it."""

import re

from shipway.buildpacks.kit.errors import CannotBuild

VERSION = re.compile(r"(?:python-|cpython-)?(\d+)(?:\.(\d+|x))?(?:\.(\d+|x))?")


def asked(text: str) -> str | None:
    """The version in a `.python-version` or `runtime.txt`: its first line that is no comment."""
    for line in text.removeprefix("\ufeff").splitlines():
        line = line.partition("#")[0].strip()
        if line:
            return line
    return None


def check(wanted: str, source: str, available: tuple[int, int, int], stack: str) -> str | None:
    """Raise CannotBuild when the stack's Python cannot be `wanted`.

    Another patch release of the same line is taken; then returns a line that says so.
    """
    have = ".".join(map(str, available))
    line = f"{available[0]}.{available[1]}"
    match = VERSION.fullmatch(wanted)
    if match is None:
        raise CannotBuild(
            f"{source} says {wanted[:40]!r}, which is no Python version that can be chosen.",
            f"Expected a version such as {line}.",
        )
    parts = [part for part in match.groups() if part not in (None, "x")]
    if [int(part) for part in parts[:2]] != list(available[: len(parts[:2])]):
        raise CannotBuild(
            f"{source} asks for Python {wanted.removeprefix('python-')[:40]},"
            f" but the {stack} stack has Python {have}.",
            f"Write {line} into {source}, or delete that file.",
        )
    if len(parts) == 3 and int(parts[2]) != available[2]:
        return f"{source} asks for {'.'.join(parts)}; the {stack} stack has {have}."
    return None
