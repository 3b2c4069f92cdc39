"""What the router is asked to do: hostname → app → instances; and the field's codes for when it cannot."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from shipway.platform.errors import ShipwayError

Status = Literal["ok", "none", "crashed", "blank"]

# The code an app without a server answers with, by its status.
STATUS_CODES: dict[str, str] = {"none": "H14", "crashed": "H10", "blank": "H81"}

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
class Route:
    """One app: its host names (lower case, no trailing dot; *.x for all below x) and who answers for it."""

    app: str
    hosts: tuple[str, ...]
    servers: tuple[Server, ...] = ()
    status: Status = "ok"

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
