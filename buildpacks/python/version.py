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
    """Whether the stack's Python can be `wanted`: None if not, else a remark, mostly empty.

    Another patch release of the same line is taken, with a remark. Raises CannotBuild for what is
    no version.
    """
    line = f"{available[0]}.{available[1]}"
    match = VERSION.fullmatch(wanted)
    if match is None:
        raise CannotBuild(
            f"{source} says {wanted[:40]!r}, which is no Python version that can be chosen.",
            f"Expected a version such as {line}.",
        )
    parts = [part for part in match.groups() if part not in (None, "x")]
    if [int(part) for part in parts[:2]] != list(available[: len(parts[:2])]):
        return None
    if len(parts) == 3 and int(parts[2]) != available[2]:
        have = ".".join(map(str, available))
        return f"{source} asks for {'.'.join(parts)}; the {stack} stack has {have}."
    return ""
