"""events: what happened, and what happens."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import click

from shipway.runtime import watching
from shipway.runtime.cli.common import engine, parse_filters, say
from shipway.runtime.cli.moments import moment
from shipway.runtime.cli.template import render
from shipway.runtime.observability.events import Event

FILTERS = {"container", "event", "image", "label", "type"}


@click.command("events", epilog="Example: … events --since 10m --filter event=die")
@click.option("--since", metavar="TIME", help="From then on: 10m, an ISO time, or epoch seconds.")
@click.option("--until", metavar="TIME", help="Up to then, and end.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only such.")
@click.option("--format", "form", metavar="TEMPLATE", help="Like '{{.Action}}', or json.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(
    *,
    since: str | None,
    until: str | None,
    filters: tuple[str, ...],
    form: str | None,
    as_json: bool,
) -> None:
    """Show what happens, until interrupted; with --since also what happened."""
    wanted = parse_filters(filters, FILTERS)
    last = None if until is None else moment(until) / 1e9
    first = moment(since) / 1e9 if since else (time.time() if last is None else 0.0)
    for event in watching.follow(engine(), first, last):
        if matches(event, wanted):
            show(event, "json" if as_json else form)


def show(event: Event, form: str | None) -> None:
    """One event as a line."""
    if form == "json":
        say(json.dumps(event.document()))
    elif form:
        say(render(form, event.document() | {"ID": event.id, "Status": event.action}))
    else:
        about = ", ".join(f"{name}={value}" for name, value in sorted(event.attributes.items()))
        stamp = datetime.fromtimestamp(event.at, UTC).isoformat()
        say(f"{stamp} {event.kind} {event.action} {event.id}{f' ({about})' if about else ''}")


def matches(event: Event, wanted: dict[str, list[str]]) -> bool:
    """Whether it is one that the filters ask for."""
    about = event.attributes
    labels = {f"{name}={value}" for name, value in about.items()} | set(about)
    tests: dict[str, Callable[[str], bool]] = {
        "container": lambda value: event.kind == "container" and event.id.startswith(value),
        "event": lambda value: event.action == value,
        "image": lambda value: value in (about.get("image"), event.id),
        "label": labels.__contains__,
        "type": lambda value: event.kind == value,
    }
    return all(any(tests[name](value) for value in values) for name, values in wanted.items())


COMMANDS = (events,)
