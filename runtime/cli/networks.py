"""port, network: where containers are reached, and by whom."""

from datetime import UTC, datetime
from typing import Any

import click

from shipway.runtime.cli.common import engine, print_json, say, table
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.network.named import NamedNetwork


@click.command("port", epilog="Example: shipway runtime port web 80/tcp")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.argument("container")
@click.argument("private", metavar="[PORT[/PROTOCOL]]", required=False)
def port(*, container: str, private: str | None, as_json: bool) -> None:
    """Show where the ports of a container are published."""
    found = engine().ports(container)
    if private:
        number, _, protocol = private.partition("/")
        wanted = (number, protocol or "tcp")
        found = [each for each in found if (str(each.container), each.protocol) == wanted]
        if not found:
            raise RuntimeFailure(f"{'/'.join(wanted)} of container {container!r} is not published")
    if as_json:
        print_json(
            [
                {
                    "ContainerPort": each.container,
                    "Protocol": each.protocol,
                    "HostIp": str(each.address),
                    "HostPort": each.host,
                }
                for each in found
            ]
        )
        return
    for each in found:
        say(each.endpoint if private else f"{each.container}/{each.protocol} -> {each.endpoint}")


@click.group("network", epilog="Example: shipway runtime network create shop")
def network() -> None:
    """Named networks: the containers on one reach each other by name."""


@network.command("create", epilog="Example: shipway runtime network create shop")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Put a label on it.")
@click.argument("name")
def create(*, name: str, labels: tuple[str, ...]) -> None:
    """Make a network."""
    pairs = [label.partition("=") for label in labels]
    engine().networks.create(name, {key: value for key, _, value in pairs})
    say(name)


@network.command("ls", epilog="Example: shipway runtime network ls --json")
@click.option("-q", "--quiet", is_flag=True, help="Print the names only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def ls(*, quiet: bool, as_json: bool) -> None:
    """List the networks."""
    found = engine().networks.list()
    if as_json:
        print_json([_details(each) for each in found])
    elif quiet:
        for each in found:
            say(each.name)
    else:
        table(
            ("NAME", "CONTAINERS", "CREATED"),
            [(each.name, len(each.members), _time(each.created_at)) for each in found],
        )


@network.command("inspect", epilog="Example: shipway runtime network inspect shop")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def inspect(*, names: tuple[str, ...]) -> None:
    """Show networks and who is on them, as JSON."""
    print_json([_details(engine().networks.get(name)) for name in names])


@network.command("rm", epilog="Example: shipway runtime network rm shop")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm(*, names: tuple[str, ...]) -> None:
    """Delete networks that no container is on."""
    for name in names:
        engine().networks.remove(name)
        say(name)


@network.command("connect", epilog="Example: shipway runtime network connect --alias db shop pg")
@click.option("--alias", "aliases", multiple=True, help="One more name of the container there.")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
def connect(*, name: str, container: str, aliases: tuple[str, ...]) -> None:
    """Put a container on a network, at once if it runs."""
    engine().networks.connect(container, name, aliases)


@network.command("disconnect", epilog="Example: shipway runtime network disconnect shop pg")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
def disconnect(*, name: str, container: str) -> None:
    """Take a container off a network; its open connections there end."""
    engine().networks.disconnect(container, name)


def _details(found: NamedNetwork) -> dict[str, Any]:
    return {
        "Name": found.name,
        "Created": _time(found.created_at),
        "Labels": dict(found.labels),
        "Containers": {
            member: {
                "Aliases": list(aliases),
                "Addresses": [str(each) for each in engine().networks.addresses(member)],
            }
            for member, aliases in found.members.items()
        },
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


COMMANDS = (port, network)
