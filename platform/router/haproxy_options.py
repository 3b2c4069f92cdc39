"""An app's options as entries of HAProxy's maps, which its rules (haproxy_config.py) look them up in.

`options.map` has one word for an app that has any: fields with colons between; and its logins. `networks.map` has the
networks that may ask, as the beginnings of addresses in hexadecimal, since the longest beginning is what HAProxy finds
fastest. `pages.map` has the bodies of pages, in base64 so that each is one word.
"""

import base64
import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from shipway.platform.router.routes import Options, Route

OPTIONS, NETWORKS, PAGES = "options.map", "networks.map", "pages.map"
PERIOD = 10  # s over which the rate of a client's requests is taken
CUSTOM = "@"  # what a page of an app's own has before the app's name
ERROR_PAGES, MAINTENANCE_PAGES = ("error", "H10", "H14"), ("H80",)
CONTROL = re.compile(r"\r\n|[\x00-\x1f\x7f]")

Entries = dict[str, str]


def options(route: Route) -> Entries:
    """What stands in `options.map` for an app."""
    found = route.options
    if found == Options(h2=found.h2):  # which is the backend's affair
        return {}
    fields = (
        found.https,
        round(found.rate * PERIOD),
        found.sticky,
        round(found.response_timeout * 1000),
        round(found.tunnel_timeout * 1000),
        bool(found.allow),
        bool(found.logins),
        bool(found.error_page),
        bool(found.maintenance_page),
    )
    logins = {f"{route.app}/{digest}": "1" for digest in found.logins}
    return {**logins, route.app: ":".join(str(int(value)) for value in fields)}


def networks(route: Route) -> Entries:
    """What stands in `networks.map` for an app."""
    return {
        f"{route.app}/{beginning}": "1"
        for text in route.options.allow
        for beginning in beginnings(text)
    }


def beginnings(text: str) -> list[str]:
    """The addresses of a network as "number of digits/first digits"; eight at most for each family.

    An IPv4 client of a socket for both families comes with an address ::ffff:a.b.c.d, so each IPv4 network has two.
    """
    network = ip_network(text)
    found = _beginnings(network)
    if isinstance(network, IPv4Network):
        mapped = int(network.network_address) | 0xFFFF << 32
        found += _beginnings(IPv6Network((mapped, network.prefixlen + 96)))
    return found


def _beginnings(network: IPv4Network | IPv6Network) -> list[str]:
    digits = network.max_prefixlen // 4
    whole = -(-network.prefixlen // 4)  # digits that say which network it is
    parts = network.subnets(new_prefix=whole * 4)
    addresses = (f"{int(part.network_address):0{digits}X}" for part in parts)
    return [f"{digits}/{address[:whole]}" for address in addresses]


def pages(route: Route) -> Entries:
    """What stands in `pages.map` for an app."""
    found: Entries = {}
    for names, page in (
        (ERROR_PAGES, route.options.error_page),
        (MAINTENANCE_PAGES, route.options.maintenance_page),
    ):
        if page:
            found |= {f"{name}.{CUSTOM}{route.app}": encoded(page) for name in names}
    return found


def encoded(page: str) -> str:
    """A page's body as one word. Line ends and tabs become blanks, for HAProxy would send control characters as %0A."""
    return base64.b64encode(CONTROL.sub(" ", page).encode()).decode()


def owner(key: str) -> str:
    """The app that an entry is of, "" for none."""
    _, sign, app = key.partition(f".{CUSTOM}")
    return app if sign else "" if "." in key else key.partition("/")[0]
