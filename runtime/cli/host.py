"""info, version: what the engine is and runs on."""

from importlib.metadata import version as version_of

import click

from shipway.runtime.cli.common import engine, print_json, say


@click.command("info", epilog="Example: shipway runtime info --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def info(*, as_json: bool) -> None:
    """Show what the engine found on this machine, and what it chose."""
    found = engine().info()
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            say(f"{name.replace('_', ' ').capitalize()}: {value}")


@click.command("version", epilog="Example: shipway runtime version")
def version() -> None:
    """Show the engine's version."""
    say(f"Shipway {version_of('shipway')}")


COMMANDS = (info, version)
