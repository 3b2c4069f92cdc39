"""Host names that apps answer at: one spelling, checked."""

import re

from shipway.platform.errors import Conflict, InvalidName
from shipway.platform.settings import Settings

LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
MAX_LENGTH = 253


def normal(host: str) -> str:
    """The host name in lower case, without a trailing dot, international names in their xn-- form."""
    text = host.strip().rstrip(".").lower()
    try:
        ascii_name = text.encode("idna").decode() if not text.isascii() else text
    except UnicodeError:
        raise _invalid(host) from None
    labels = ascii_name.split(".")
    if len(ascii_name) > MAX_LENGTH or not all(LABEL.fullmatch(label) for label in labels):
        raise _invalid(host)
    if len(labels) < 2 or labels[-1].isdigit():
        raise _invalid(host)
    return ascii_name


def refuse_platforms(host: str, settings: Settings) -> None:
    """Raise Conflict for a name under the platform's own domain: those are given out by app name."""
    if host == settings.domain or host.endswith(f".{settings.domain}"):
        raise Conflict(
            f"{host} is under the platform's own domain {settings.domain}, where each app"
            " answers at its own name; add a domain of yours."
        )


def _invalid(host: str) -> InvalidName:
    return InvalidName(
        f"{host[:80]!r} is no valid host name: expected one such as www.example.com, without"
        " scheme, port or path."
    )
