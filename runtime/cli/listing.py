"""ps: what containers there are."""

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from shipway.runtime.cli import template
from shipway.runtime.cli.common import engine, parse_filters, say
from shipway.runtime.containers.container import Container
from shipway.runtime.containers.states import DOCKER_STATUS
from shipway.runtime.engine import Engine
from shipway.runtime.errors import NoSuchContainer
from shipway.runtime.network.publish import Published

COLUMNS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}
SHORT_COMMAND = 20
FILTERS = {"id", "name", "status", "label", "ancestor", "exited"}


@click.command(
    "ps",
    epilog="Example: … ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'",
)
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("-n", "--last", type=int, help="Only so many that were made last, running or not.")
@click.option("-l", "--latest", is_flag=True, help="Only the one that was made last.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only such.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten the command.")
@click.option("--format", "form", metavar="TEMPLATE", help="Like '{{.ID}}', or json.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def ps(
    *,
    show_all: bool,
    quiet: bool,
    last: int | None,
    latest: bool,
    filters: tuple[str, ...],
    no_trunc: bool,
    form: str | None,
    as_json: bool,
) -> None:
    """List containers: those that run, or all."""
    found = engine()
    wanted = parse_filters(filters, FILTERS)
    last = 1 if latest else last
    everything = show_all or last is not None or "status" in wanted or "exited" in wanted
    containers = [
        each
        for each in settled(found)
        if (everything or each.state in ("running", "paused")) and matches(each, wanted)
    ]
    containers.sort(key=lambda each: each.created_at, reverse=True)
    if last is not None and last >= 0:
        containers = containers[:last]
    if quiet:
        for each in containers:
            say(each.id)
        return
    ports = found.all_ports()
    rows = [row(found, each, no_trunc, ports.get(each.id, ())) for each in containers]
    if as_json:
        template.show_json(rows)
    else:
        template.show(rows, form, COLUMNS)


def settled(found: Engine) -> list[Container]:
    """All containers, once what is due for those that ended is done."""
    kept = []
    for container in found.list():
        if container.state in ("stopped", "lost"):
            with suppress(NoSuchContainer):
                found.settle(container.id)
                kept.append(found.get(container.id))
        else:
            kept.append(container)
    return kept


def matches(container: Container, wanted: dict[str, list[str]]) -> bool:
    """Whether a container is of those that the filters ask for."""
    code = str(container.exit.code) if container.exit else None
    tests: dict[str, Callable[[str], bool]] = {
        "id": container.id.startswith,
        "name": lambda value: value.removeprefix("/") in container.id,
        "status": lambda value: value in (DOCKER_STATUS[container.state], container.state),
        "label": lambda value: has_label(container, value),
        "ancestor": lambda value: value == container.image,
        "exited": lambda value: value == code,
    }
    labels = [has_label(container, value) for value in wanted.get("label", ())]
    others = [
        any(tests[name](value) for value in values)
        for name, values in wanted.items()
        if name != "label"
    ]
    return all(labels) and all(others)


def has_label(container: Container, text: str) -> bool:
    """Whether the container has the label NAME, or NAME=VALUE."""
    name, equals, value = text.partition("=")
    return name in container.labels and (not equals or container.labels[name] == value)


def row(
    found: Engine, container: Container, whole: bool, ports: Sequence[Published] = ()
) -> dict[str, Any]:
    """What is shown of a container, by Docker's names."""
    now = time.time()
    command = shlex.join(found.command(container.id))
    if not whole and len(command) > SHORT_COMMAND:
        command = command[: SHORT_COMMAND - 1] + "…"
    return {
        "ID": container.id,
        "Names": container.id,
        "Image": container.image,
        "Command": f'"{command}"',
        "CreatedAt": datetime.fromtimestamp(container.created_at).astimezone().isoformat(" "),
        "RunningFor": f"{ago(now - container.created_at)} ago",
        "State": DOCKER_STATUS[container.state],
        "Status": status(container, now),
        "Ports": ", ".join(map(str, ports)),
        "Networks": container.ip,
        "Labels": ",".join(f"{name}={value}" for name, value in container.labels.items()),
        "LabelMap": dict(container.labels),
    }


def ago(seconds: float) -> str:
    """A duration in Docker's words: "Less than a second", "5 minutes", "About an hour"."""
    count = int(max(0.0, seconds))
    if count < 1:
        return "Less than a second"
    if count == 1:
        return "1 second"
    if count < 60:
        return f"{count} seconds"
    minutes, hours = count // 60, round(seconds / 3600)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if hours < 24 * 7 * 2:
        return f"{days} days"
    if hours < 24 * 30 * 2:
        return f"{days // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{days // 30} months"
    return f"{days // 365} years"


def status(container: Container, now: float) -> str:
    """Docker's STATUS: "Up 5 minutes (Paused)", "Exited (137) 2 hours ago", "Created"."""
    if container.state in ("running", "paused"):
        paused = " (Paused)" if container.state == "paused" else ""
        return f"Up {ago(now - container.started_at)}{paused}"
    if container.state == "stopped" and container.exit is not None:
        return f"Exited ({container.exit.code}) {ago(now - container.exit.at)} ago"
    return "Created" if container.state == "created" else "Dead (its monitor died)"


COMMANDS = (ps,)
