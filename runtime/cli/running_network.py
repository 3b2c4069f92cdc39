"""Options of run and create: networks, published ports, links and names."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.network.publish import parse

# The network that every container has without asking.
USUAL = ("bridge", "default")

OPTIONS = (
    click.option(
        "-p",
        "--publish",
        multiple=True,
        metavar="[[IP:]PORT:]PORT",
        help="Publish a port or a range, like 8080:80, 0.0.0.0:8080:80, 53:53/udp or 80.",
    ),
    click.option("-P", "--publish-all", is_flag=True, help="Publish all ports the image exposes."),
    click.option(
        "--network",
        "--net",
        "networks",
        multiple=True,
        metavar="NAME",
        help="Join this network; may be repeated. `none` for no network at all.",
    ),
    click.option(
        "--network-alias", multiple=True, metavar="NAME", help="One more name on its networks."
    ),
    click.option(
        "--link",
        "links",
        multiple=True,
        metavar="CONTAINER[:ALIAS]",
        help="Let it reach another container, under a name.",
    ),
    click.option(
        "--add-host", multiple=True, metavar="NAME:IP", help="One more line of its /etc/hosts."
    ),
    click.option("--dns", multiple=True, metavar="IP", help="A name server in place of ours."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="A domain to search."),
    click.option("--dns-option", multiple=True, metavar="OPTION", help="An option of resolv.conf."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    networks = values["networks"]
    if "none" in networks and len(networks) > 1:
        raise InvalidSpec("`--network none` goes with no other network")
    for name in networks:
        if name == "host" or name.startswith("container:"):
            raise InvalidSpec(f"a container has a network of its own; {name!r} is not to be had")
    fields["network"] = "none" not in networks
    fields["networks"] = tuple(name for name in networks if name not in (*USUAL, "none"))
    fields["aliases"] = values["network_alias"]
    fields["ports"] = tuple(port for text in values["publish"] for port in parse(text))
    fields["publish_all"] = values["publish_all"]
    fields["links"] = tuple(map(link, values["links"]))
    fields["extra_hosts"] = tuple(map(extra_host, values["add_host"]))
    fields["dns"] = values["dns"]
    fields["dns_search"] = values["dns_search"]
    fields["dns_options"] = values["dns_option"]


def link(text: str) -> tuple[str, str]:
    """A container, and the name it is to have: by default its own."""
    target, _, alias = text.partition(":")
    return target, alias or target


def extra_host(text: str) -> tuple[str, str]:
    """A name and an address, of NAME:IP or NAME=IP, where an IPv6 address may be in brackets."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not address:
        raise InvalidSpec(f"the host {text!r} is not of the form NAME:IP")
    return name, address.removeprefix("[").removesuffix("]")
