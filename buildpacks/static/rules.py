"""The files `_redirects` and `_headers`, in Netlify's format."""

import re
from typing import NamedTuple

from shipway.buildpacks.kit.errors import CannotBuild

REDIRECTS, HEADERS = "_redirects", "_headers"
STATUSES = (200, 301, 302, 303, 307, 308, 404, 410)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLACEHOLDER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)")


class Redirect(NamedTuple):
    """One rule. `pattern` is a regular expression whose groups `target` names as `:name`.

    `query` are parameters that must be there, by the placeholder that takes each value. A rule that
    is `forced` goes before a file of the same path.
    """

    pattern: str
    target: str
    status: int
    forced: bool
    query: tuple[tuple[str, str], ...] = ()


class Header(NamedTuple):
    """A header for all paths that `pattern` matches."""

    pattern: str
    name: str
    value: str


def redirects(text: str) -> list[Redirect]:
    """The rules in the order of the file. Raises CannotBuild with the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.split(r"\s+#", line.strip())[0].split()
        if words and not words[0].startswith("#"):
            found.append(_redirect(words, f"{REDIRECTS} line {number}"))
    return found


def _redirect(words: list[str], where: str) -> Redirect:
    source, *rest = words
    query = []
    while rest and "=" in rest[0] and not rest[0].startswith(("/", "http://", "https://")):
        name, _, value = rest.pop(0).partition("=")
        if not value.startswith(":"):
            raise CannotBuild(
                f"{where}: {name}={value}, expected a placeholder such as {name}=:id."
            )
        query.append((name, value[1:]))
    if not source.startswith("/"):
        raise CannotBuild(f"{where}: {source[:60]!r} is no path, expected one that begins with /.")
    if not rest:
        raise CannotBuild(f"{where}: has no target, expected `/from /to 301`.")
    target, *rest = rest
    if not target.startswith(("/", "http://", "https://")):
        raise CannotBuild(
            f"{where}: {target[:60]!r}, expected a target that begins with / or https://."
        )
    status, forced = 301, False
    if rest and rest[0].rstrip("!").isdecimal():
        word = rest.pop(0)
        status, forced = int(word.rstrip("!")), word.endswith("!")
    if status not in STATUSES:
        raise CannotBuild(
            f"{where}: the status {status}, expected one of {', '.join(map(str, STATUSES))}."
        )
    if rest:
        raise CannotBuild(
            f"{where}: the condition {rest[0][:40]!r} is not known here, expected nothing after"
            " the status."
        )
    if status in (200, 404, 410) and not target.startswith("/"):
        raise CannotBuild(f"{where}: a {status} to another host, expected a path of this site.")
    return Redirect(pattern(source, where), target, status, forced, tuple(query))


def headers(text: str) -> list[Header]:
    """The headers in the order of the file. Raises CannotBuild with the line."""
    found = []
    path = ""
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{HEADERS} line {number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] not in " \t":
            if not line.startswith("/"):
                raise CannotBuild(f"{where}: {line[:60]!r}, expected a path that begins with /.")
            path = pattern(line.strip(), where)
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not path:
            raise CannotBuild(f"{where}: is indented, expected a path above it.")
        if not colon or not _NAME.fullmatch(name):
            raise CannotBuild(f"{where}: expected `  Name: value`.")
        if any(ord(character) < 32 for character in value):
            raise CannotBuild(f"{where}: the value has a control character.")
        found.append(Header(path, name, value))
    return found


def pattern(path: str, where: str) -> str:
    """A path with `*` and `:placeholders` as a regular expression with groups named `p_…`."""
    if path.count("*") > 1 or ("*" in path and not path.endswith("*")):
        raise CannotBuild(f"{where}: {path[:60]!r}, expected at most one *, at the end.")
    stem, star = (path[:-1], True) if path.endswith("*") else (path, False)
    parts = _PLACEHOLDER.split(stem)
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise CannotBuild(f"{where}: {path[:60]!r} has a placeholder twice.")
    out = "".join(
        f"(?<p_{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
    if star:
        # `/blog/*` is also for `/blog`
        out = (
            f"{out[:-1]}(?:/(?<p_splat>.*))?"
            if out.endswith("/") and out != "/"
            else f"{out}(?<p_splat>.*)"
        )
    elif out != "/":
        out = f"{out.rstrip('/')}/?"
    return f"^{out}$"
