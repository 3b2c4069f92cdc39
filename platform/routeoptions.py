"""What an app's owner may set about its requests: kept as text in the app's row, checked here, read by the router."""

import re
from collections.abc import Callable, Mapping
from html import escape
from ipaddress import ip_network
from urllib.parse import urlsplit

from shipway.platform.errors import InvalidInput
from shipway.platform.router.routes import Options, login

MAINTENANCE = "maintenance"  # set by its own command only
MOST_NETWORKS = 100
MOST_LOGINS = 20
LONGEST_PAGE = 6 * 1024  # bytes; what HAProxy takes as one command, in base64
SHORTEST_PASSWORD = 8
USER = re.compile(r"[A-Za-z0-9._@+-]{1,64}", re.ASCII)
URL = re.compile(r"https?://[!-~]{1,500}")
FRAME = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>{title}</title><style>html,body,iframe{{margin:0;border:0;width:100%;height:100%;display:block}}"
    '</style><iframe src="{url}" title="{title}"></iframe>'
)

Texts = Mapping[str, str]


def changed(app: str, old: Texts | None, changes: Texts) -> dict[str, str]:
    """The app's settings with `changes`, each checked; an empty value takes one back. Raises InvalidInput."""
    found = dict(old or {})
    for key, value in changes.items():
        if key not in KEYS:
            raise InvalidInput(
                f"{key[:60]!r} is no setting of requests: there are {', '.join(KEYS)}."
            )
        if value.strip() in ("", "off"):
            found.pop(key, None)
            continue
        check, expected = KEYS[key]
        try:
            found[key] = check(app, value.strip())
        except ValueError:
            what = "cannot be taken" if key == "basic-auth" else f"is {value[:60]!r}"
            raise InvalidInput(f"{key} {what}, expected {expected}.") from None
    return dict(sorted(found.items()))


def shown(texts: Texts | None) -> dict[str, str]:
    """What is set, without digests of passwords."""
    found = {key: value for key, value in (texts or {}).items() if key in KEYS}
    if "basic-auth" in found:
        names = [pair.partition(":")[0] for pair in found["basic-auth"].split()]
        found["basic-auth"] = " ".join(names)
    return found


def in_maintenance(texts: Texts | None) -> bool:
    """Whether the app is in maintenance."""
    return bool(texts) and MAINTENANCE in (texts or {})


def of(texts: Texts | None) -> Options:
    """The settings as the router takes them."""
    own = texts or {}
    return Options(
        https="force-https" in own,
        rate=float(own.get("rate-limit", 0)),
        h2=own.get("app-protocol") == "h2c",
        sticky="sticky-sessions" in own,
        response_timeout=float(own.get("response-timeout", 0)),
        tunnel_timeout=float(own.get("tunnel-timeout", 0)),
        allow=tuple(own.get("allow", "").split()),
        logins=tuple(pair.partition(":")[2] for pair in own.get("basic-auth", "").split()),
        error_page=_html(own.get("error-page", ""), "Application error"),
        maintenance_page=_html(own.get("maintenance-page", ""), "Maintenance"),
    )


def _html(page: str, title: str) -> str:
    """The page's HTML; one at an address is shown in a frame, so that nothing of ours ever fetches it."""
    return FRAME.format(url=escape(page), title=title) if URL.fullmatch(page) else page


# -- checks: what is kept, or ValueError ---------------------------------------------------------


def _on(_app: str, text: str) -> str:
    if text != "on":
        raise ValueError(text)
    return text


def _protocol(_app: str, text: str) -> str:
    if text not in ("h2c", "http/1.1"):
        raise ValueError(text)
    return text


def _number(low: float, high: float) -> Callable[[str, str], str]:
    def check(_app: str, text: str) -> str:
        if not low <= float(text) <= high:
            raise ValueError(text)
        return f"{float(text):g}"

    return check


def _networks(_app: str, text: str) -> str:
    networks = [str(ip_network(word)) for word in text.replace(",", " ").split()]
    if len(networks) > MOST_NETWORKS:
        raise ValueError(text)
    return " ".join(dict.fromkeys(networks))


def _logins(app: str, text: str) -> str:
    found: dict[str, str] = {}
    for pair in text.split():
        user, sign, password = pair.partition(":")
        if not sign or not USER.fullmatch(user) or len(password) < SHORTEST_PASSWORD:
            raise ValueError
        found[user] = login(app, user, password)
    if len(found) > MOST_LOGINS:
        raise ValueError
    return " ".join(f"{user}:{digest}" for user, digest in sorted(found.items()))


def _page(_app: str, text: str) -> str:
    if URL.fullmatch(text) and urlsplit(text).hostname:
        return text
    if not text.startswith("<") or "\0" in text or len(text.encode()) > LONGEST_PAGE:
        raise ValueError(text)
    return text


SECONDS = "seconds from {} to {}"
PAGE = f"an address (https://…) or HTML of at most {LONGEST_PAGE // 1024} KiB that begins with <"
KEYS: dict[str, tuple[Callable[[str, str], str], str]] = {
    "force-https": (_on, "on or off"),
    "rate-limit": (_number(0.1, 100_000), "requests a second of one client, from 0.1 to 100000"),
    "allow": (_networks, f"at most {MOST_NETWORKS} networks such as 192.0.2.0/24 or 2001:db8::/32"),
    "basic-auth": (
        _logins,
        f"words user:password, at most {MOST_LOGINS}, passwords of {SHORTEST_PASSWORD} characters or more",
    ),
    "sticky-sessions": (_on, "on or off"),
    "app-protocol": (_protocol, "h2c or http/1.1"),
    "response-timeout": (_number(1, 3600), SECONDS.format(1, 3600)),
    "tunnel-timeout": (_number(1, 604_800), SECONDS.format(1, 604_800)),
    "error-page": (_page, PAGE),
    "maintenance-page": (_page, PAGE),
}
