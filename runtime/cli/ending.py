"""stop, restart, kill, pause, unpause, wait, rm: several containers each."""

import click

from shipway.runtime.cli.common import each
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ContainerLost
from shipway.runtime.kernel.signals import signal_number

# Where a stop has nothing to do.
AT_REST = ("created", "stopped")


@click.command("stop", epilog="Example: … stop -t 30 web db")
@click.option("-t", "--time", type=click.IntRange(min=0), help="Seconds to wait before SIGKILL.")
@click.option("-s", "--signal", "name", metavar="SIGNAL", help="What to send in place of SIGTERM.")
@click.argument("names", nargs=-1, required=True)
def stop(*, names: tuple[str, ...], time: int | None, name: str | None) -> int:
    """Ask containers to end, and kill those that have not after their grace."""
    number = signal_number(name) if name else None

    def end(found: Engine, container: str) -> None:
        if found.get(container).state not in AT_REST:
            found.stop(container, time, number)

    return each(names, end)


@click.command("restart", epilog="Example: … restart web")
@click.option("-t", "--time", type=click.IntRange(min=0), help="Seconds to wait before SIGKILL.")
@click.argument("names", nargs=-1, required=True)
def restart(*, names: tuple[str, ...], time: int | None) -> int:
    """Stop containers and start them again."""

    def again(found: Engine, container: str) -> None:
        found.restart(container, time)

    return each(names, again, ready=True)


@click.command("kill", epilog="Example: … kill -s HUP web")
@click.option("-s", "--signal", "name", default="KILL", metavar="SIGNAL", help="A name or number.")
@click.argument("names", nargs=-1, required=True)
def kill(*, names: tuple[str, ...], name: str) -> int:
    """Send a signal, SIGKILL by default, to containers' first processes."""
    number = signal_number(name)
    return each(names, lambda found, container: found.kill(container, number))


@click.command("pause", epilog="Example: … pause web")
@click.argument("names", nargs=-1, required=True)
def pause(*, names: tuple[str, ...]) -> int:
    """Freeze every process of containers."""
    return each(names, lambda found, container: found.pause(container))


@click.command("unpause", epilog="Example: … unpause web")
@click.argument("names", nargs=-1, required=True)
def unpause(*, names: tuple[str, ...]) -> int:
    """Let paused containers go on."""
    return each(names, lambda found, container: found.unpause(container))


@click.command("wait", epilog="Example: … wait job")
@click.argument("names", nargs=-1, required=True)
def wait(*, names: tuple[str, ...]) -> int:
    """Wait until containers end and print their exit codes."""

    def code(found: Engine, container: str) -> int:
        if found.get(container).state == "created":
            return 0  # as Docker: it does not run
        ended = found.wait(container)
        if ended is None:
            raise ContainerLost(container)
        return ended.code

    return each(names, code)


@click.command("rm", epilog="Example: … rm -f web db")
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs.")
@click.option("-v", "--volumes", is_flag=True, help="For Docker's sake: there are no volumes.")
@click.argument("names", nargs=-1, required=True)
def rm(*, names: tuple[str, ...], force: bool, volumes: bool) -> int:
    """Remove containers with all that they wrote."""

    def away(found: Engine, container: str) -> None:
        found.remove(container, force)

    return each(names, away, missing_is_fine=force)


COMMANDS = (stop, restart, kill, pause, unpause, wait, rm)
