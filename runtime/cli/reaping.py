"""reap: what a monitor runs when its container has ended and is to be removed; not for people."""

import click

from shipway.runtime.cli.common import engine
from shipway.runtime.errors import NoSuchContainer


@click.command("reap", hidden=True)
@click.argument("name")
def reap(*, name: str) -> None:
    """Remove a container that has ended and that nobody waits for."""
    try:
        engine().settle(name)
    except NoSuchContainer:
        return


COMMANDS = (reap,)
