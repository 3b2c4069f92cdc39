"""The app's folder in parts, by the globs that buildpacks name: each becomes a layer of its own.

The tree is a stranger's. No process of the build lives any more; links are never followed.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shipway.buildpacks.errors import BuildFailed

EXPORT_FAILED = 62


def split(app: Path, slices: Sequence[Sequence[str]], parts: Sequence[Path]) -> list[bool]:
    """Move what each slice matches out of `app` into its folder of `parts`, at the same place.

    A match takes all below it along. What one slice took is gone for those after it. Gives whether
    each part has anything. Raises BuildFailed for a glob that cannot be read.
    """
    found = []
    for globs, part in zip(slices, parts, strict=True):
        matched = False
        for glob in globs:
            pattern = _pattern(glob, app.name)
            for path in list(_matches(app, pattern)):
                _move(app, path, part)
                matched = True
        found.append(matched)
    return found


def _pattern(glob: str, app: str) -> list[re.Pattern[str]]:
    """One expression for each part of the path. An absolute path must lead into the app."""
    path = os.path.normpath(glob)
    if path.startswith("/"):
        path = os.path.relpath(path, f"/{app}")
    if path == ".." or path.startswith("../"):
        raise BuildFailed(f"the slice {glob!r} leaves the app's folder", EXPORT_FAILED)
    return [_expression(part, glob) for part in path.split("/")]


def _expression(part: str, glob: str) -> re.Pattern[str]:
    """Go's filepath.Match: `*`, `?`, `[a-z]`, `[^a]` and a backslash before what stands for itself."""
    fixed = [""]  # what stands between the stars
    at = 0
    while at < len(part):
        one = part[at]
        out = ""
        if one == "*":
            fixed.append("")
        elif one == "?":
            out = "."
        elif one == "[":
            match = re.compile(r"\[(\^?)((?:\\.|[^\]\\])+)\]", re.DOTALL).match(part, at)
            if match is None:
                raise BuildFailed(f"the slice {glob!r} has a '[' without an end", EXPORT_FAILED)
            inner = re.sub(r"([\[&~|^])", r"\\\1", match[2])
            out = f"[{match[1]}{inner}]"
            at = match.end() - 1
        elif one == "\\":
            at += 1
            out = re.escape(part[at : at + 1])
        else:
            out = re.escape(one)
        fixed[-1] += out
        at += 1
    first, *between = fixed
    # The nearest place is as good as any for all but the last: nothing is tried twice.
    tail = "".join(f"(?>.*?{each})" for each in between[:-1])
    if between:
        tail += f".*{between[-1]}"
    try:
        return re.compile(first + tail, re.DOTALL)
    except re.error as error:
        raise BuildFailed(f"the slice {glob!r} cannot be read: {error}", EXPORT_FAILED) from error


def _matches(folder: Path, pattern: Sequence[re.Pattern[str]]) -> Iterator[Path]:
    """Paths below `folder` that match, in order of their names."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if not pattern[0].fullmatch(entry.name):
            continue
        if len(pattern) == 1:
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _matches(Path(entry.path), pattern[1:])


def _move(app: Path, path: Path, part: Path) -> None:
    """With the folders above it, which keep their owner and mode in every part."""
    target = part
    source = app
    for name in path.relative_to(app).parts[:-1]:
        source, target = source / name, target / name
        if not target.is_dir():
            target.mkdir()
            _like(source, target)
    place = target / path.name
    if place.is_dir() and not place.is_symlink() and path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):  # part of it was taken by an earlier glob
            _move(app, inner, part)
        return
    path.rename(place)


def _like(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, status.st_mode & 0o7777)
