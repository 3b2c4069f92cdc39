"""events: what happened, and what happens."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import click

from shipway.runtime import watching
from shipway.runtime.cli.common import engine, say
from shipway.runtime.cli.template import render
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.events import Event

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
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
    wanted = parse(filters)
    now = time.time()
    last = None if until is None else moment(until, now)
    first = moment(since, now) if since else (now if last is None else 0.0)
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


def moment(text: str, now: float) -> float:
    """Epoch seconds of a time: so long ago (1h30m), ISO, or epoch seconds. Raises InvalidSpec."""
    try:
        return float(text)
    except ValueError:
        pass
    found = _DURATION.fullmatch(text)
    if found and any(found.groups()):
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return now - hours * 3600 - minutes * 60 - seconds
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise InvalidSpec(
            f"{text!r} is no time; write 10m, 2026-11-24T10:00:00 or epoch seconds"
        ) from None


def parse(filters: tuple[str, ...]) -> dict[str, list[str]]:
    """Filters by name; those of one name are alternatives. Raises InvalidSpec."""
    found: dict[str, list[str]] = {}
    for each in filters:
        name, equals, value = each.partition("=")
        if not equals or name not in FILTERS:
            raise InvalidSpec(
                f"the filter {each!r} is not known; use NAME=VALUE with {', '.join(sorted(FILTERS))}"
            )
        found.setdefault(name, []).append(value)
    return found


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
