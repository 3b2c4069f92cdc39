"""Commands that run the platform on this machine: up, down, the processes of the Procfile, migrate, stack:build."""

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from shipway.platform.cli.common import progress, say, session
from shipway.platform.errors import ShipwayError

if TYPE_CHECKING:
    from shipway.platform.settings import Settings

Body = TypeVar("Body", bound=Callable[..., Any])


class LocalOnly(ShipwayError):
    """A command that is for the platform's own machine was sent over SSH."""

    exit_code = 2


def local(body: Body) -> Body:
    """Refuse the command over SSH."""

    @wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if session().over_ssh:
            name = click.get_current_context().info_name
            raise LocalOnly(f"{name} can only be run on the platform's own machine.")
        return body(*args, **kwargs)

    return guarded  # type: ignore[return-value]


def _settings() -> "Settings":
    from shipway.platform.settings import current

    return current()


@click.command("up", epilog="Example: shipway up")
@click.option("--foreground", is_flag=True, help="Stay, and write to stdout; for systemd.")
@local
def up(*, foreground: bool) -> None:
    """Start the platform, and return once it would take a push."""
    from shipway.platform import startup

    settings = _settings()
    startup.up(settings, lambda line: progress(f"       {line}"), foreground=foreground)
    if not foreground:
        say(f"Shipway is up: {settings.dashboard}/")


@click.command("down", epilog="Example: shipway down")
@click.option("--apps", is_flag=True, help="Stop the apps, too.")
@local
def down(*, apps: bool) -> None:
    """End the platform; apps keep running without it."""
    from shipway.platform import supervisor

    ran = supervisor.ask_down(_settings())
    say("Shipway is down." if ran else "Shipway was not running.")
    if apps:
        _become_worker("stop-apps")
    say(
        "The apps keep running, unreachable until the next `shipway up`; `shipway down --apps` stops them."
    )


@click.command("migrate", epilog="Example: shipway migrate")
@local
def migrate() -> None:
    """Bring the database to the newest scheme."""
    from shipway.platform import database

    database.prepare(_settings())
    say("The database is at the newest scheme.")


@click.command("redis", epilog="Example: shipway redis")
@local
def redis() -> None:
    """Run the private Redis server."""
    from shipway.platform import redis_server

    redis_server.main(_settings())


@click.command("web", epilog="Example: shipway web")
@local
def web() -> None:
    """Run the dashboard, the API and git over HTTP."""
    from shipway.platform import web_server

    web_server.main(_settings())


@click.command("ssh", epilog="Example: shipway ssh")
@local
def ssh() -> None:
    """Run the SSH server: pushes and commands."""
    from shipway.platform import ssh_server

    ssh_server.main(_settings())


@click.command("router", epilog="Example: shipway router")
@local
def router() -> None:
    """Run the router."""
    from shipway.platform.router import controller

    controller.main(_settings())


@click.command("worker", epilog="Example: shipway worker")
@local
def worker() -> None:
    """Run the worker: builds and deploys."""
    _become_worker("worker")


@click.command("host", epilog="Example: shipway host")
@local
def host() -> None:
    """Run this machine's instances."""
    _become_worker("host")


@click.command("stack:build", epilog="Example: shipway stack:build")
@local
def build_stack() -> None:
    """Make the stack that apps are built on, unless it is there."""
    _become_worker("stack")


@click.command("stacks:update", epilog="Example: shipway stacks:update")
@local
def update_stack() -> None:
    """Make the stack anew with security updates, and put every app onto it without a build."""
    _become_worker("stack-update")


@click.command(
    "runtime",
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
    epilog="Example: shipway runtime ps",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@local
def runtime(args: tuple[str, ...]) -> int:
    """Use this machine's container engine: run, ps, images, …; `shipway runtime --help`."""
    # By name: this side of the house does not import the engine.
    code: int = importlib.import_module("shipway.runtime.cli.main").run(list(args))
    return code


def _become_worker(role: str) -> NoReturn:
    """Be one of the processes of workers/, which this side of the house does not import: by name."""
    _settings()  # a bad setting shall be told before Celery is imported
    sys.stdout.flush()
    importlib.import_module("shipway.workers.main").run([role])
    raise AssertionError(role)  # it ends the process


COMMANDS = (
    up,
    down,
    migrate,
    redis,
    web,
    ssh,
    router,
    worker,
    host,
    build_stack,
    update_stack,
    runtime,
)
