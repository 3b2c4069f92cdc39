"""What the router is asked to do: hostname → app → instances; and the field's codes for when it cannot."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from shipway.platform.errors import ShipwayError

Status = Literal["ok", "none", "crashed", "blank", "maintenance"]

# The code an app without a server answers with, by its status.
STATUS_CODES: dict[str, str] = {
    "none": "H14",
    "crashed": "H10",
    "blank": "H81",
    "maintenance": "H80",
}
NO_ERRORS = frozenset({"H80", "H81"})  # as they should be: not logged as errors

# What each code of the field says in an app's log; only those that this router can give.
DESCRIPTIONS = {
    "H10": "App crashed",
    "H11": "Backlog too deep",
    "H12": "Request timeout",
    "H13": "Connection closed without response",
    "H14": "No web processes running",
    "H15": "Idle connection",
    "H18": "Server request interrupted",
    "H19": "Backend connection timeout",
    "H21": "Backend connection refused",
    "H24": "Forced close",
    "H25": "HTTP restriction",
    "H26": "Request error",
    "H27": "Client request interrupted",
    "H28": "Client connection idle",
    "H80": "Maintenance mode",
    "H81": "Blank app",
    "H99": "Platform error",
}

# These words go into HAProxy's configuration and its command line, where a blank or a newline would be syntax.
APP = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
HOST = re.compile(r"(?=.{1,253}\Z)(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
DIGEST = re.compile(r"[0-9A-F]{64}", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}", re.ASCII)


class InvalidRoute(ShipwayError):
    """A route that HAProxy must not be told."""


@dataclass(frozen=True)
class Server:
    """An instance that takes requests: `name` is for people (web.1), `id` unique among all apps and times."""

    name: str
    id: str
    address: str
    port: int

    def __post_init__(self) -> None:
        _check("instance name", self.name, NAME)
        _check("instance id", self.id, NAME)
        if not 1 <= self.port <= 65535:
            raise InvalidRoute(f"{self.port} is no port of an instance: use 1 to 65535.")
        try:
            ip_address(self.address)
        except ValueError:
            raise InvalidRoute(f"{self.address!r} is no IP address of an instance.") from None

    @property
    def label(self) -> str:
        """Name and id in one word, as HAProxy keeps it."""
        return f"{self.name}/{self.id}"


@dataclass(frozen=True)
class Options:
    """How an app's requests are treated beyond the ordinary. Times are seconds; 0 and () are for "as usual"."""

    https: bool = False  # send plain requests to https://
    rate: float = 0  # requests a second of one client, on average over ten seconds
    h2: bool = False  # HTTP/2 without TLS to the instances
    sticky: bool = False  # a client stays with an instance, by a cookie
    response_timeout: float = 0
    tunnel_timeout: float = 0
    allow: tuple[str, ...] = ()  # networks that may ask; all may if there is none
    logins: tuple[str, ...] = ()  # digests (see `login`), of which a request has to bring one
    error_page: str = ""  # HTML
    maintenance_page: str = ""

    def __post_init__(self) -> None:
        for digest in self.logins:
            _check("login", digest, DIGEST)


def login(app: str, user: str, password: str) -> str:
    """What is kept of a login for HTTP basic auth, and what HAProxy makes of a request's; upper-case hex."""
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return hashlib.sha256(f"{app}:{token}".encode()).hexdigest().upper()


@dataclass(frozen=True)
class Route:
    """One app: its host names (lower case, no trailing dot; *.x for all below x) and who answers for it."""

    app: str
    hosts: tuple[str, ...]
    servers: tuple[Server, ...] = ()
    status: Status = "ok"
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        _check("app name", self.app, APP)
        for host in self.hosts:
            _check("host name", host, HOST)
        if (self.status == "ok") != bool(self.servers):
            raise InvalidRoute(
                f"The route of {self.app} is {self.status} with {len(self.servers)} servers."
            )


def _check(what: str, value: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(value):
        raise InvalidRoute(f"{value!r} cannot be routed: it is no valid {what}.")
