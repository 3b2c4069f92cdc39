"""What the engine's verbs share: the engine that is meant, and how things are shown."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click

from shipway.runtime.cli.config import engine_config
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.errors import InvalidSpec, NoSuchContainer, RuntimeFailure

# Control characters; none but tab and newline may reach a person's terminal from a name or a label.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Session:
    """What holds for the whole command line."""

    root: str | None = None

    @cached_property
    def engine(self) -> Engine:
        """The engine, not set up."""
        return Engine(engine_config(self.root))

    @cached_property
    def ready_engine(self) -> Engine:
        """The engine, set up on this machine. Raises HostUnfit."""
        self.engine.ensure_ready()
        return self.engine


def _session() -> Session:
    found = click.get_current_context().find_object(Session)
    assert found is not None
    return found


def configuration() -> EngineConfig:
    """How the engine that is meant was set up, or would be: without one, or any folder of it."""
    return engine_config(_session().root)


def engine(ready: bool = False) -> Engine:
    """The engine that is meant; with `ready`, set up to run containers."""
    return _session().ready_engine if ready else _session().engine


def say(text: str = "") -> None:
    """A line for people or scripts; nothing in it may steer the terminal."""
    click.echo(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text))


def print_json(data: Any) -> None:
    """For scripts."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Docker's tables: upper-case headings, columns three spaces apart."""
    lines = [[str(cell) for cell in line] for line in (headings, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("   ".join(cells).rstrip())


def each(
    names: Sequence[str],
    verb: Callable[[Engine, str], Any],
    missing_is_fine: bool = False,
    ready: bool = False,
) -> int:
    """Do something to each container; 1 if one failed, with the others done all the same.

    What `verb` answers is printed, or the name as it was given.
    """
    code = 0
    found = engine(ready)
    for name in names:
        try:
            answer = verb(found, found.resolve(name))
            say(name if answer is None else str(answer))
        except RuntimeFailure as error:
            complain(str(error))
            if not (missing_is_fine and isinstance(error, NoSuchContainer)):
                code = 1
    return code


def complain(message: str) -> None:
    """A line of error."""
    click.echo(_CONTROL.sub("?", f"shipway runtime: {message}"), err=True)


def parse_filters(filters: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """Docker's filters, NAME=VALUE, by name; those of one name are alternatives. InvalidSpec."""
    found: dict[str, list[str]] = {}
    for each in filters:
        name, value = parse_filter(each, known)
        found.setdefault(name, []).append(value)
    return found


def parse_filter(text: str, known: Collection[str]) -> tuple[str, str]:
    """Name and value of one filter. Raises InvalidSpec."""
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise InvalidSpec(
            f"the filter {text!r} is not known; use NAME=VALUE with {', '.join(sorted(known))}"
        )
    return name, value
