"""How things are written for people: times, sizes, states, small graphs; registered as Jinja's filters and globals."""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from zlib import crc32

import flask
from markupsafe import Markup

from shipway.platform.ansi import pieces
from shipway.platform.browser import TOKEN, csrf_token, current_user, settings

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
HUES = 6  # how many colours tell processes apart in a log


def register(app: flask.Flask) -> None:
    """Give the templates their words."""
    env = app.jinja_env
    env.trim_blocks = env.lstrip_blocks = True
    for filter_ in (ago, duration, size, stamp, iso, short, pieces, host_part):
        env.filters[filter_.__name__] = filter_
    for function in (csrf, csrf_token, current_user, asset, sparkline, settings):
        env.globals[function.__name__] = function


def csrf() -> Markup:
    """The hidden field that every form carries."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(TOKEN, csrf_token())


def asset(name: str) -> str:
    """The address of a file in `static/`; it changes with the content, so browsers may keep it for good."""
    return flask.url_for("static", filename=name, v=_version(name))


@cache
def _version(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]


def duration(seconds: float | None) -> str:
    """Like `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds is None or seconds < 0:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, low, name, below in ((86400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if whole >= unit:
            rest = whole % unit // low
            return f"{whole // unit} {name}" + (f" {rest} {below}" if rest else "")
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")


def ago(at: float | None) -> Markup | str:
    """`5 min ago`, as an element that a script keeps true."""
    if at is None:
        return "–"
    return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(
        iso(at), stamp(at), since(time.time() - at)
    )


def since(seconds: float) -> str:
    """How long ago, in one unit."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return "just now"


def stamp(at: float) -> str:
    """`2026-11-24 00:12:03 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """As HTML's `datetime` has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def size(count: float | None) -> str:
    """Bytes as `812 KB`, `41 MB`, `1.2 GB` (of 1024)."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            break
        value /= 1024
    return (
        f"{value:.1f} {unit}" if value < 10 and unit not in ("B", "KB") else f"{value:.0f} {unit}"
    )


def short(commit: str | None) -> str:
    """A commit's first seven signs."""
    return (commit or "")[:7]


def host_part(url: str) -> str:
    """A URL without its scheme and last slash."""
    return url.split("://", 1)[-1].rstrip("/")


def hue(source: str, process: str) -> str:
    """The class that tells a log line's process from the others: `hue-0` to `hue-5`, or one of the platform's two."""
    if process == "router":
        return "hue-router"
    if source != "app" or process == "api":
        return "hue-platform"
    return f"hue-{crc32(process.encode()) % HUES}"


def sparkline(series: Sequence[int], label: str, width: int = 96, height: int = 24) -> Markup:
    """A small graph of `series` over time, as SVG; empty for fewer than two values."""
    if len(series) < 2:
        return Markup("")
    top, bottom = max(series) * 1.15 or 1, min(series) * 0.7
    step = width / (len(series) - 1)
    points = [
        (i * step, height - 1 - (value - bottom) / (top - bottom or 1) * (height - 2))
        for i, value in enumerate(series)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup(
        '<svg class="spark" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img"'
        ' aria-label="{label}" preserveAspectRatio="none"><title>{label}</title>'
        '<polygon points="0,{h} {line} {w},{h}"/><polyline points="{line}"/></svg>'
    ).format(w=width, h=height, line=line, label=label)
