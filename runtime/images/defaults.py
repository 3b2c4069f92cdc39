"""What an image says about how it is run, combined with what the caller asks for, as Docker does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.ids.accounts import find_account
from shipway.runtime.images.store import ImageConfig


@dataclass(frozen=True)
class Wanted:
    """What the caller gives: an empty entrypoint (None is "the image's") leaves the command alone."""

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    terminal: bool = False


def defaults(config: ImageConfig, layers: Sequence[Path], wanted: Wanted) -> dict[str, Any]:
    """The fields of a specification that an image decides: args, cwd, user, groups, env.

    `layers` are the image's, topmost first. Raises InvalidSpec, NoSuchUser.
    """
    account = find_account(layers, config.user if wanted.user is None else wanted.user)
    env = {**config.env}
    if wanted.terminal:
        env = {"TERM": "xterm", **env}
    env.setdefault("HOME", account.home)
    return {
        "args": arguments(config, wanted),
        "cwd": config.working_dir or "/",
        "user": account.user,
        "groups": account.groups,
        "env": env,
    }


def arguments(config: ImageConfig, wanted: Wanted) -> tuple[str, ...]:
    """The whole command line. Another entrypoint than the image's also drops the image's Cmd."""
    entrypoint = config.entrypoint if wanted.entrypoint is None else wanted.entrypoint
    command = wanted.command or (config.cmd if wanted.entrypoint is None else ())
    found = (*entrypoint, *command)
    if not found:
        raise InvalidSpec("neither the image nor the command line names a program to run")
    return found
