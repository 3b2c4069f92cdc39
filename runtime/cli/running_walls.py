"""Options of run and create: secrets, and the size of what the container writes."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from shipway.runtime.cli.running_limits import size
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import SECRETS_BYTES

OPTIONS = (
    click.option(
        "--secret",
        multiple=True,
        metavar="id=NAME,src=FILE",
        help="Put a file's content at /run/secrets/NAME, in memory; src=- reads our input.",
    ),
    click.option(
        "--storage-opt",
        multiple=True,
        metavar="size=SIZE",
        help="Most that the container may write outside of its mounts, like size=2g.",
    ),
)
NAMES = {"id": "id", "src": "src", "source": "src"}


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    found: dict[str, bytes] = {}
    for text in values["secret"]:
        name, value = secret(text)
        if name in found:
            raise InvalidSpec(f"the secret {name!r} is given twice")
        found[name] = value
    fields["secrets"] = found
    for text in values["storage_opt"]:
        key, equals, value = text.partition("=")
        if key != "size" or not equals:
            raise InvalidSpec(f"the storage option {text!r} is not known; write size=2g, say")
        fields["limits"] = replace(fields["limits"], disk=size(value))


def secret(text: str) -> tuple[str, bytes]:
    """A secret's name and its bytes, read from where `text` says. Raises InvalidSpec."""
    found = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key not in NAMES or not equals:
            # What stands there is not repeated: it may be the secret itself.
            raise InvalidSpec("a secret must be given as id=NAME,src=FILE")
        found[NAMES[key]] = value
    if set(found) != {"id", "src"}:
        raise InvalidSpec("a secret must be given as id=NAME,src=FILE, with both of these")
    return found["id"], _read(found["src"])


def _read(source: str) -> bytes:
    """The bytes of a file, of a descriptor as /dev/fd/3, or of our input as "-"."""
    most = SECRETS_BYTES + 1  # one more than may be, so that the specification refuses it
    if source == "-":
        return sys.stdin.buffer.read(most)
    try:
        with Path(source).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise InvalidSpec(f"the secret's file {source} cannot be read: {error.strerror}") from error
