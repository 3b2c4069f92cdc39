"""run, create, start, stop, restart, kill, pause, unpause, wait, rm: a container's life.

The options of run and create come in groups, one module each: `options` adds them to a command, and
`apply` puts their values into the fields of the specification. A new group is one line of GROUPS.
"""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from shipway.runtime.attach import Attachment
from shipway.runtime.cli import running_basic, running_limits, running_mounts
from shipway.runtime.cli.common import engine, say
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ContainerLost, InvalidSpec, NoSuchContainer, RuntimeFailure
from shipway.runtime.imagedefaults import Wanted, defaults
from shipway.runtime.reaper import attended
from shipway.runtime.spec import ContainerSpec, Limits, check_id

GROUPS = (running_basic, running_limits, running_mounts)
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
    name = values["name"] or secrets.token_hex(6)
    check_id(name)
    stored = found.images.get(image)
    layers = [found.layers.path(layer.diff_id) for layer in reversed(stored.layers)]
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
        "stdin": values["interactive"],
        "stdin_once": values["interactive"] and not detached,
        "auto_remove": values["auto_remove"],
    }
    for group in GROUPS:
        group.apply(values, fields)
    return ContainerSpec(id=name, image=image, **fields)


@click.command("run", context_settings=SETTINGS, epilog="Example: … run --rm -it debian:13 bash")
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option("--detach-keys", default="ctrl-p,ctrl-q", help="Keys that leave a terminal.")
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
    except RuntimeFailure:
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
@click.option("--detach-keys", default="ctrl-p,ctrl-q", help="Keys that leave a terminal.")
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
        return each(names, lambda found, name: (found.start(name), None)[1])
    if len(names) > 1:
        raise InvalidSpec("only one container can be started and attached to at a time")
    return foreground(engine(ready=True).resolve(names[0]), interactive, detach_keys, sig_proxy)


@click.command("rm", epilog="Example: … rm -f web db")
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs.")
@click.option("-v", "--volumes", is_flag=True, help="For Docker's sake: there are no volumes.")
@click.argument("names", nargs=-1, required=True)
def rm(*, names: tuple[str, ...], force: bool, volumes: bool) -> int:
    """Remove containers with all that they wrote."""
    return each(names, lambda found, name: found.remove(name, force), missing_is_fine=force)


def each(
    names: Sequence[str],
    verb: Callable[[Engine, str], Any],
    missing_is_fine: bool = False,
) -> int:
    """Do something to each container and print its name; 1 if one failed, with the others done."""
    code = 0
    found = engine(ready=True)
    for name in names:
        try:
            answer = verb(found, found.resolve(name))
            say(name if answer is None else str(answer))
        except NoSuchContainer as error:
            click.echo(f"shipway runtime: {error}", err=True)
            code = 0 if missing_is_fine else 1
        except RuntimeFailure as error:
            click.echo(f"shipway runtime: {error}", err=True)
            code = 1
    return code


def check_streams(interactive: bool, tty: bool) -> None:
    """Refuse a terminal for a program whose input is none, as Docker does."""
    if interactive and tty and not sys.stdin.isatty():
        raise InvalidSpec("the input is not a terminal; leave out -t, or use a terminal")


def foreground(name: str, interactive: bool, keys: str, proxy: bool) -> int:
    """Start a container and stay with it; its exit code, or 0 if the caller detaches."""
    # Imported late: a detached start needs no terminal.
    from shipway.runtime.cli import terminal

    found = engine()
    spec = found.spec(name)
    pressed = terminal.detach_keys(keys)
    with ExitStack() as stack:
        if spec.auto_remove:
            stack.enter_context(attended(found.files(name)))
        attached: list[Attachment] = []
        try:
            found.start(name, lambda: attached.append(found.attach(name)))
            stack.callback(attached[0].close)
            tty = spec.terminal and os.isatty(0)
            if tty and interactive:
                stack.enter_context(terminal.raw_terminal(0))
            ended = terminal.Conversation(
                attached[0],
                0 if interactive else None,
                pressed if spec.terminal else b"",
                (lambda number: found.send(name, number)) if proxy else None,
                0 if tty else None,
            ).run()
        except BaseException:
            for each_one in attached:
                each_one.close()
            raise
        if not ended:
            return 0
        exited = found.wait(name)
        if exited is None:
            raise ContainerLost(name)
        if spec.auto_remove:
            found.remove(name)
        return exited.code


COMMANDS = (run, create, start, rm)
