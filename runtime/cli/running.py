"""run, create, start, attach, exec: what the caller's terminal may be joined to.

The options of run and create come in groups, one module each: `options` adds them to a command, and
`apply` puts their values into the fields of the specification. A new group is one line of GROUPS.
"""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shipway.runtime.cli import (
    running_basic,
    running_images,
    running_limits,
    running_meters,
    running_mounts,
    running_network,
    running_walls,
    terminal,
)
from shipway.runtime.cli.common import each, engine, say
from shipway.runtime.containers.attach import Attachment
from shipway.runtime.containers.reaper import attended
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ContainerLost, InvalidSpec, NotKept, RuntimeFailure
from shipway.runtime.files import random_name
from shipway.runtime.images.defaults import Wanted, defaults
from shipway.runtime.spec import ContainerSpec, Limits, check_id

KEYS = "ctrl-p,ctrl-q"
GROUPS = (
    running_basic,
    running_images,
    running_limits,
    running_meters,
    running_mounts,
    running_network,
    running_walls,
)
# All after the image is the container's own command line; -h is the host name's.
SETTINGS = {"help_option_names": ["--help"], "allow_interspersed_args": False}


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `run` and `create` have in common: the groups, streams, and the command itself."""
    command = click.argument("command", nargs=-1, type=click.UNPROCESSED)(command)
    command = click.argument("image")(command)
    for group in reversed(GROUPS):
        command = group.options(command)
    for option in (
        click.option("--rm", "auto_remove", is_flag=True, help="Remove the container at its end."),
        click.option("-i", "--interactive", is_flag=True, help="Keep its input open."),
        click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
        click.option("--cidfile", metavar="FILE", help="Write the container's id to a new file."),
    ):
        command = option(command)
    return command


def make(image: str, command: tuple[str, ...], detached: bool, values: dict[str, Any]) -> str:
    """Create the container that the options describe; its id. Raises InvalidSpec and more."""
    found = engine(ready=True)
    spec = specification(found, image, command, detached, values)
    cidfile = values["cidfile"]
    if cidfile and Path(cidfile).exists():
        raise InvalidSpec(f"the cidfile {cidfile} is there already; remove it, or name another")
    found.create(spec)
    if cidfile:
        try:
            Path(cidfile).write_text(spec.id)
        except OSError as error:
            found.remove(spec.id)
            raise InvalidSpec(f"the cidfile {cidfile} cannot be written: {error}") from error
    return spec.id


def specification(
    found: Engine, image: str, command: tuple[str, ...], detached: bool, values: dict[str, Any]
) -> ContainerSpec:
    """What the image and the options say together."""
    name = values["name"] or random_name(6)
    check_id(name)
    stored = running_images.obtain(found, image, values["pull"])
    layers = found.images.trees(stored)
    entrypoint = values["entrypoint"]
    wanted = Wanted(
        command,
        None if entrypoint is None else tuple(filter(None, [entrypoint])),
        values["user"],
        values["tty"],
    )
    fields: dict[str, Any] = {
        **defaults(stored.config, layers, wanted),
        "limits": Limits(),
        "mounts": (),
        "log_path": found.log_path(name),
        "terminal": values["tty"],
        "console": console(values["tty"]),
        "stdin": values["interactive"],
        "stdin_once": values["interactive"] and not detached,
        "auto_remove": values["auto_remove"],
    }
    for group in GROUPS:
        group.apply(values, fields)
    return ContainerSpec(id=name, image=image, **fields)


@click.command("run", context_settings=SETTINGS, epilog="Example: … run --rm -it debian:13 bash")
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option("--detach-keys", default=KEYS, help="Keys that leave a terminal.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Hand our signals on.")
@with_options
def run(
    *,
    image: str,
    command: tuple[str, ...],
    detach: bool,
    detach_keys: str,
    sig_proxy: bool,
    **values: Any,
) -> int:
    """Create a container of IMAGE and start it, with COMMAND in place of the image's own."""
    check_streams(values["interactive"] and not detach, values["tty"])
    name = make(image, command, detach, values)
    try:
        if detach:
            engine().start(name)
            say(name)
            return 0
        return foreground(name, values["interactive"], detach_keys, sig_proxy)
    except (RuntimeFailure, KeyboardInterrupt):
        if values["auto_remove"]:
            engine().remove(name)
        raise


@click.command("create", context_settings=SETTINGS, epilog="Example: … create --name db redis:7")
@with_options
def create(*, image: str, command: tuple[str, ...], **values: Any) -> None:
    """Make a container of IMAGE, to be started later."""
    say(make(image, command, detached=False, values=values))


@click.command("start", epilog="Example: … start db")
@click.option("-a", "--attach", is_flag=True, help="Stay with it and show its output.")
@click.option("-i", "--interactive", is_flag=True, help="Hand our input on.")
@click.option("--detach-keys", default=KEYS, help="Keys that leave a terminal.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Hand our signals on.")
@click.argument("names", nargs=-1, required=True)
def start(
    *,
    names: tuple[str, ...],
    attach: bool,
    interactive: bool,
    detach_keys: str,
    sig_proxy: bool,
) -> int:
    """Start containers that were created or have ended."""
    if not attach and not interactive:
        return each(names, lambda found, name: (found.start(name), None)[1], ready=True)
    if len(names) > 1:
        raise InvalidSpec("only one container can be started and attached to at a time")
    return foreground(engine(ready=True).resolve(names[0]), interactive, detach_keys, sig_proxy)


def check_streams(interactive: bool, tty: bool) -> None:
    """Refuse a terminal for a program whose input is none, as Docker does."""
    if interactive and tty and not sys.stdin.isatty():
        raise InvalidSpec("the input is not a terminal; leave out -t, or use a terminal")


def console(tty: bool) -> tuple[int, int] | None:
    """The size of our terminal, if the program is to have one and we do."""
    size = terminal.window_size(0) if tty and os.isatty(0) else (0, 0)
    return size if all(size) else None


def foreground(name: str, interactive: bool, keys: str, proxy: bool) -> int:
    """Start a container and stay with it; its exit code, or 0 if the caller detaches."""
    found = engine()
    spec = found.spec(name)
    pressed = terminal.detach_keys(keys) if spec.terminal else b""
    with ExitStack() as stack:
        if spec.auto_remove:
            stack.enter_context(attended(found.files(name)))
        attached: list[Attachment] = []

        def ready() -> None:
            attached.append(found.attach(name))
            stack.callback(attached[0].close)
            if size := console(spec.terminal):
                attached[0].resize(*size)  # it may be started on another terminal than it was made

        found.start(name, ready)
        stay = Stay(attached[0], interactive and spec.stdin, spec.terminal, pressed)
        if not stay.run((lambda number: found.send(name, number)) if proxy else None):
            return 0
        code = exit_code(found, name)
        if spec.auto_remove:
            found.remove(name)
        return code


@dataclass(frozen=True)
class Stay:
    """How the caller's streams are joined to a container's, or to one program's in it."""

    attachment: Attachment
    interactive: bool
    tty: bool
    keys: bytes

    def run(self, forward: Callable[[int], None] | None) -> bool:
        """Whether it ended; False if the caller detached. The terminal is as it was afterwards."""
        with ExitStack() as stack:
            ours = self.tty and os.isatty(0)
            if ours and self.interactive:
                stack.enter_context(terminal.raw_terminal(0))
            return terminal.Conversation(
                self.attachment,
                0 if self.interactive else None,
                self.keys if ours else b"",
                forward,
                0 if ours else None,
            ).run()


def exit_code(found: Engine, name: str) -> int:
    """The code of a container whose streams have ended."""
    exited = found.wait(name)
    if exited is None:
        raise ContainerLost(name)
    return exited.code


@click.command("attach", epilog="Example: … attach --no-stdin web")
@click.option("--no-stdin", is_flag=True, help="Only show its output.")
@click.option("--detach-keys", default=KEYS, help="Keys that leave a terminal.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Hand our signals on.")
@click.argument("name")
def attach(*, name: str, no_stdin: bool, detach_keys: str, sig_proxy: bool) -> int:
    """Join our streams to a running container's."""
    found = engine()
    name = found.resolve(name)
    try:
        spec = found.spec(name)
        stdin, tty = spec.stdin and not no_stdin, spec.terminal
    except NotKept:
        stdin, tty = False, False
    check_streams(stdin, tty)
    attachment = found.attach(name)
    try:
        stay = Stay(attachment, stdin, tty, terminal.detach_keys(detach_keys))
        if not stay.run((lambda number: found.send(name, number)) if sig_proxy else None):
            return 0
    finally:
        attachment.close()
    return exit_code(found, name)


@click.command("exec", context_settings=SETTINGS, epilog="Example: … exec -it web bash")
@click.option("-d", "--detach", is_flag=True, help="Leave it running; its output goes nowhere.")
@click.option("-i", "--interactive", is_flag=True, help="Hand our input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Set variables from a file.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user (name or number).")
@click.option("-w", "--workdir", metavar="DIR", help="The working directory inside.")
@click.option("--detach-keys", default=KEYS, help="Keys that leave a terminal.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    *,
    name: str,
    command: tuple[str, ...],
    detach: bool,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    detach_keys: str,
) -> int:
    """Run COMMAND in a running container."""
    # Imported late: only this verb needs it.
    from shipway.runtime.containers.execution import Program

    check_streams(interactive and not detach, tty)
    found = engine()
    values = running_basic.environment(env, env_file)
    stdin = interactive and not detach
    program = Program(command, values, user, workdir, tty, stdin, detach, console(tty))
    begun = found.begin(found.resolve(name), program)
    try:
        if begun.attachment is None:
            return 0
        pressed = terminal.detach_keys(detach_keys) if tty else b""
        if not Stay(begun.attachment, stdin, tty, pressed).run(None):
            return 0
        return begun.wait()
    finally:
        begun.close()


COMMANDS = (run, create, start, attach, execute)
