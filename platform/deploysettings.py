"""What an app's deploys are told: how long its processes have to boot, to drain, to end. Kept as text, checked here."""

from dataclasses import dataclass

from shipway.platform.errors import InvalidInput
from shipway.platform.settings import Settings

Texts = dict[str, str]

# The least and the most seconds of each.
KEYS: dict[str, tuple[float, float]] = {
    "boot-timeout": (1, 3600),
    "drain-timeout": (0, 3600),
    "stop-timeout": (0, 3600),
    "release-timeout": (1, 86_400),
}


@dataclass(frozen=True)
class DeploySettings:
    """An app's, or where it has none of its own the platform's; all are seconds.

    `boot_timeout`: until a web process answers. `drain_timeout`: for requests under way, once the router has let go of
    an instance. `stop_timeout`: from SIGTERM to SIGKILL. `release_timeout`: for a release command.
    """

    boot_timeout: float
    drain_timeout: float
    stop_timeout: float
    release_timeout: float


def of(settings: Settings, texts: Texts | None) -> DeploySettings:
    """The settings of an app's deploys."""
    own = texts or {}
    return DeploySettings(
        boot_timeout=float(own.get("boot-timeout", settings.boot_timeout)),
        drain_timeout=float(own.get("drain-timeout", settings.drain_timeout)),
        stop_timeout=float(own.get("stop-timeout", settings.stop_grace)),
        release_timeout=float(own.get("release-timeout", settings.release_timeout)),
    )


def shown(settings: Settings, texts: Texts | None) -> Texts:
    """Every setting in force, as text."""
    found = of(settings, texts)
    return {key: f"{getattr(found, key.replace('-', '_')):g}" for key in KEYS}


def changed(old: Texts | None, changes: Texts) -> Texts:
    """The app's settings with `changes`, each checked; an empty value takes one back. Raises InvalidInput."""
    found = dict(old or {})
    for key, value in changes.items():
        if key not in KEYS:
            raise InvalidInput(
                f"{key[:60]!r} is no setting of deploys: there are {', '.join(KEYS)}."
            )
        if value:
            found[key] = _seconds(key, value)
        else:
            found.pop(key, None)
    return dict(sorted(found.items()))


def _seconds(key: str, value: str) -> str:
    low, high = KEYS[key]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not low <= number <= high:
        raise InvalidInput(f"{key} is {value[:60]!r}, expected seconds from {low:g} to {high:g}.")
    return f"{number:g}"
