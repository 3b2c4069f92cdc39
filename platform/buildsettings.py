"""What an app's builds are told beyond their source: the builder, the folder, limits. Kept as text, checked here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from shipway.platform.errors import Forbidden, InvalidInput
from shipway.platform.settings import UNITS, Settings

BUILDERS = ("auto", "buildpacks", "dockerfile")
ARGUMENT = re.compile(r"arg\.([A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)
TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
BUILDPACK = re.compile(r"[!-~]{1,500}")
SECRET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", re.ASCII)
MOST_ARGUMENTS = 100
MOST_BUILDPACKS = 50
LONGEST_ARGUMENT = 4096
# What an app's owner may lower, and only an admin raise above the platform's own.
LIMITS = ("memory", "cpus", "pids", "disk", "timeout")

Texts = dict[str, str]


@dataclass(frozen=True)
class BuildSettings:
    """An app's, or where it has none of its own the platform's. Sizes are bytes, `timeout` is seconds."""

    builder: str
    folder: str
    dockerfile: str
    target: str
    memory: int
    cpus: float
    pids: int
    disk: int
    timeout: float
    arguments: Mapping[str, str] = field(default_factory=dict)


def changed(settings: Settings, old: Texts | None, changes: Texts, *, is_admin: bool) -> Texts:
    """The app's settings with `changes`, each checked; an empty value takes one back.

    Raises InvalidInput, Forbidden.
    """
    found = dict(old or {})
    for key, value in changes.items():
        if not value:
            _check_key(key)
            found.pop(key, None)
            continue
        found[key] = _checked(key, value)
        if key in LIMITS and not is_admin:
            _check_ceiling(settings, key, found[key])
    if sum(key.startswith("arg.") for key in found) > MOST_ARGUMENTS:
        raise InvalidInput(f"A build takes at most {MOST_ARGUMENTS} arguments.")
    return dict(sorted(found.items()))


def of(settings: Settings, texts: Texts | None) -> BuildSettings:
    """The settings of an app's builds."""
    own = texts or {}
    return BuildSettings(
        builder=own.get("builder", "auto"),
        folder=own.get("build-dir", ""),
        dockerfile=own.get("dockerfile", "Dockerfile"),
        target=own.get("target", ""),
        memory=size(own["memory"]) if "memory" in own else settings.build_memory,
        cpus=float(own.get("cpus", settings.build_cpus)),
        pids=int(own.get("pids", settings.build_pids)),
        disk=size(own["disk"]) if "disk" in own else settings.build_disk,
        timeout=float(own.get("timeout", settings.build_timeout)),
        arguments={match[1]: own[key] for key in own if (match := ARGUMENT.fullmatch(key))},
    )


def shown(settings: Settings, texts: Texts | None) -> dict[str, str]:
    """Every setting in force, as text."""
    found = of(settings, texts)
    return {
        "builder": found.builder,
        "build-dir": found.folder,
        "dockerfile": found.dockerfile,
        "target": found.target,
        "memory": _size_text(found.memory),
        "cpus": f"{found.cpus:g}",
        "pids": str(found.pids),
        "disk": _size_text(found.disk),
        "timeout": f"{found.timeout:g}",
        **{f"arg.{name}": value for name, value in sorted(found.arguments.items())},
    }


def buildpack(text: str) -> str:
    """Return `text` if it can name a buildpack, else raise InvalidInput."""
    if not BUILDPACK.fullmatch(text) or text.startswith("-"):
        raise InvalidInput(
            f"{text[:60]!r} names no buildpack: give an id (shipway/python), a folder of the app"
            " (./buildpacks/mine), a git URL (https://…#ref) or an image (docker://…)."
        )
    return text


def secret_name(text: str) -> str:
    """Return `text` if a build secret may be called so, else raise InvalidInput."""
    if not SECRET.fullmatch(text):
        raise InvalidInput(
            f"{text[:60]!r} is no valid name of a build secret: use 1 to 64 letters, digits, dots,"
            " dashes and underscores, not beginning with a dot."
        )
    return text


def size(text: str) -> int:
    """Bytes in a size such as 512M. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,12})\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(text)
    return int(match[1]) * UNITS[match[2].upper()]


def _size_text(count: int) -> str:
    for unit in ("G", "M", "K"):
        if count and count % UNITS[unit] == 0:
            return f"{count // UNITS[unit]}{unit}"
    return str(count)


def _folder(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or len(text) > 500:
        raise ValueError(text)
    return "" if str(path) == "." else str(path)


def _between(low: float, high: float) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not low <= float(text) <= high:
            raise ValueError(text)
        return f"{float(text):g}"

    return check


def _whole(low: int, high: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text.isascii() or not low <= int(text) <= high:
            raise ValueError(text)
        return str(int(text))

    return check


def _size_between(low: int, high: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not low <= size(text) <= high:
            raise ValueError(text)
        return _size_text(size(text))

    return check


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return check


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return check


# What may be set: how a value is checked, and what is expected of it.
KEYS: dict[str, tuple[Callable[[str], str], str]] = {
    "builder": (_one_of(*BUILDERS), "one of auto, buildpacks, dockerfile"),
    "build-dir": (_folder, "a folder in the repository, such as services/web"),
    "dockerfile": (_folder, "a file below build-dir, such as docker/Dockerfile"),
    "target": (_matching(TARGET), "the name of a stage"),
    "memory": (_size_between(64 << 20, 1 << 40), "a size from 64M on, such as 2G"),
    "cpus": (_between(0.1, 1024), "a number of CPUs from 0.1 on"),
    "pids": (_whole(16, 100_000), "a whole number from 16 to 100000"),
    "disk": (_size_between(64 << 20, 1 << 44), "a size from 64M on, such as 10G"),
    "timeout": (_between(1, 86_400), "seconds from 1 to 86400"),
}


def _check_key(key: str) -> None:
    if key not in KEYS and not ARGUMENT.fullmatch(key):
        raise InvalidInput(
            f"{key[:60]!r} is no setting of builds: there are {', '.join(KEYS)} and arg.NAME."
        )


def _checked(key: str, value: str) -> str:
    _check_key(key)
    if key not in KEYS:
        if "\0" in value or len(value) > LONGEST_ARGUMENT:
            raise InvalidInput(f"{key} is longer than {LONGEST_ARGUMENT} characters, or has a NUL.")
        return value
    check, expected = KEYS[key]
    try:
        return check(value)
    except ValueError:
        raise InvalidInput(f"{key} is {value[:60]!r}, expected {expected}.") from None


def _check_ceiling(settings: Settings, key: str, value: str) -> None:
    most = getattr(settings, f"build_{key}")
    asked = size(value) if key in ("memory", "disk") else float(value)
    if asked > most:
        text = _size_text(most) if key in ("memory", "disk") else f"{most:g}"
        raise Forbidden(
            f"{key} may be at most {text}, the platform's own limit; an admin may set more."
        )
