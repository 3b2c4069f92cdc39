"""Options of run and create: the program, its user, environment, names, labels and capabilities."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.kernel.signals import signal_number
from shipway.runtime.spec import GRANTABLE_CAPABILITIES

OPTIONS = (
    click.option("--name", help="The container's name; without it, 12 hexadecimal digits."),
    click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Set variables from a file."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user (name or number)."),
    click.option("-w", "--workdir", metavar="DIR", help="The working directory inside."),
    click.option("--entrypoint", metavar="PROGRAM", help="Replace the image's entrypoint."),
    click.option("-h", "--hostname", metavar="NAME", help="The host name inside."),
    click.option("-l", "--label", multiple=True, metavar="NAME=VALUE", help="Set a label."),
    click.option("--cap-add", multiple=True, metavar="NAME", help="Grant a capability."),
    click.option("--cap-drop", multiple=True, metavar="NAME", help="Take a capability away."),
    click.option("--stop-signal", metavar="SIGNAL", help="What stop sends; SIGTERM by default."),
    click.option("--stop-timeout", type=click.IntRange(min=0), help="Seconds stop waits; 10."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    fields["env"] = {**fields["env"], **environment(values["env"], values["env_file"])}
    if values["workdir"]:
        fields["cwd"] = values["workdir"]
    if values["hostname"]:
        fields["hostname"] = values["hostname"]
    fields["labels"] = pairs(values["label"])
    fields["capabilities"] = _capabilities(
        values["cap_add"], values["cap_drop"], fields["user"].startswith("0:")
    )
    if values["stop_signal"]:
        fields["stop_signal"] = signal_number(values["stop_signal"])
    if values["stop_timeout"] is not None:
        fields["stop_timeout"] = float(values["stop_timeout"])


def environment(lines: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    """The variables of the files and then of the options. A bare NAME is taken from our own."""
    found: dict[str, str] = {}
    for name in files:
        try:
            text = Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"the environment file {name} cannot be read: {error}") from error
        rows = (line.lstrip() for line in text.splitlines())
        found |= _variables([row for row in rows if row and not row.startswith("#")])
    return found | _variables(list(lines))


def _variables(lines: list[str]) -> dict[str, str]:
    # Imported late: only a bare name needs the caller's environment.
    from shipway.runtime.cli.config import caller_variable

    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals:
            own = caller_variable(name)
            if own is None:
                continue
            value = own
        found[name] = value
    return found


def pairs(lines: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE lines as a mapping; a bare NAME has an empty value."""
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _capabilities(add: tuple[str, ...], drop: tuple[str, ...], root: bool) -> frozenset[str]:
    """What the container holds: root has all that can be granted, others what they are given."""
    held = set(GRANTABLE_CAPABILITIES) if root else set()
    if "ALL" in map(str.upper, drop):
        held = set()
    if "ALL" in map(str.upper, add):
        held = set(GRANTABLE_CAPABILITIES)
    held |= {_capability(name) for name in add if name.upper() != "ALL"}
    held -= {_capability(name) for name in drop if name.upper() != "ALL"}
    return frozenset(held)


def _capability(name: str) -> str:
    return "CAP_" + name.upper().removeprefix("CAP_")
