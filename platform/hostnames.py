"""Host names that apps answer at: one spelling, checked."""

import re
from urllib.parse import urlsplit

import idna

from shipway.platform.errors import Conflict, InvalidName
from shipway.platform.settings import Settings

LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
MAX_LENGTH = 253
LONGEST_INPUT = 1000  # characters; what is longer is not looked at
WILDCARD = "*."


def normal(host: str) -> str:
    """The host name in lower case, without a trailing dot, international names in their xn-- form (IDNA 2008).

    It may begin with `*.`, for all names below the rest. Raises InvalidName.
    """
    text = host.strip()
    if len(text) > LONGEST_INPUT:
        raise _invalid(host)
    wild = WILDCARD if text.startswith(WILDCARD) else ""
    name = _ascii(host, text.removeprefix(wild)).removesuffix(".").lower()
    labels = name.split(".")
    if len(wild + name) > MAX_LENGTH or not all(LABEL.fullmatch(label) for label in labels):
        raise _invalid(host)
    if len(labels) < 2 or labels[-1].isdigit():
        raise _invalid(host)
    return wild + name


def _ascii(host: str, name: str) -> str:
    """As browsers do it: UTS 46, by which capitals and full-width forms count as what they look like."""
    try:
        encoded = name if name.isascii() else idna.encode(name, uts46=True).decode()
        # xn-- names that no encoder makes would be a second spelling, or a name no browser asks for.
        for label in encoded.lower().split("."):
            if label.startswith("xn--"):
                idna.ulabel(label)
    except UnicodeError:  # idna's errors are among them
        raise _invalid(host) from None
    return encoded


def covering(name: str) -> list[str]:
    """The wildcards that a name is below: *.b.example.com and *.example.com for a.b.example.com."""
    labels = name.removeprefix(WILDCARD).split(".")
    return [WILDCARD + ".".join(labels[start:]) for start in range(1, len(labels) - 1)]


def refuse_platforms(host: str, settings: Settings) -> None:
    """Raise Conflict for names of the platform's own domain, which are given out by app name, and the dashboard's."""
    rest = host.removeprefix(WILDCARD)
    holds = rest != host and settings.domain.endswith(f".{rest}")
    if rest == settings.domain or rest.endswith(f".{settings.domain}") or holds:
        raise Conflict(
            f"{host} is {'above' if holds else 'under'} the platform's own domain"
            f" {settings.domain}, where each app answers at its own name; add a domain of yours."
        )
    if host == urlsplit(settings.dashboard).hostname:
        raise Conflict(f"{host} is where Shipway itself answers; add a domain of yours.")


def _invalid(host: str) -> InvalidName:
    return InvalidName(
        f"{host[:80]!r} is no valid host name: expected one such as www.example.com or"
        " *.example.com, without scheme, port or path."
    )
