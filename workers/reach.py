"""Which hosts builds may reach: those the operator names or, without any named, all that are on the internet."""

import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from shipway.platform.settings import Settings


def may_pull(settings: Settings) -> Callable[[str], bool]:
    """Whether images may come from a registry; it is asked by its host, perhaps with a port."""

    def check(domain: str) -> bool:
        if settings.build_hosts:
            return is_named(settings.build_hosts, domain)
        return is_public(domain, settings.allow_networks)

    return check


def is_named(names: tuple[str, ...], domain: str) -> bool:
    """Whether a host is one of those named; `.example.com` names all below it."""
    host, port = split(domain)
    whole = f"{host}:{port}" if port else host
    return any(
        each in (host, whole) or (each.startswith(".") and host.endswith(each))
        for each in (name.lower() for name in names)
    )


def split(domain: str) -> tuple[str, str]:
    """Host and port of `host:port`, `[::1]:port` or `host`, in lower case."""
    host, colon, port = domain.lower().rpartition(":")
    if not colon or not port.isdecimal():
        host, port = domain.lower(), ""
    return host.strip("[]").rstrip("."), port


def is_public(domain: str, allowed: tuple[str, ...]) -> bool:
    """Whether all addresses of a host are on the internet, or in networks that apps may reach."""
    host, _ = split(domain)
    try:
        found = {ip_address(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return True  # the one that looks it up next says so better
    networks = [ip_network(each) for each in allowed]
    return all(each.is_global or any(each in network for network in networks) for each in found)
