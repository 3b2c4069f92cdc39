"""Config vars: config, config:get, config:set, config:unset. Values are shown only where they are asked for."""

import re
from collections.abc import Mapping
from typing import Any

import click

from shipway.platform.cli.common import (
    CommandFailed,
    app_options,
    client,
    json_option,
    key_values,
    no_wait_option,
    only_app,
    path,
    pick,
    print_json,
    progress,
    say,
    wait_for_release,
)
from shipway.platform.errors import InvalidInput

APP_LIKE = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)


@click.command("config", epilog="Example: shipway config hello --json")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@click.option("-s", "--shell", is_flag=True, help="As lines that a shell can read.")
@json_option
def config(
    args: tuple[str, ...], *, app: str | None, remote: str | None, shell: bool, as_json: bool
) -> None:
    """Show an app's config vars with their values."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "config"))
    if as_json:
        print_json(found)
    elif shell:
        from shlex import quote

        for key, value in sorted(found.items()):
            click.echo(f"{key}={quote(value)}")
    else:
        width = max(map(len, found), default=0) + 2
        progress(f"=== {name} Config Vars" if found else f"{name} has no config vars.")
        for key, value in sorted(found.items()):
            say(f"{key + ':':<{width}}{value}")


@click.command("config:get", epilog="Example: shipway config:get hello DATABASE_URL")
@click.argument("args", nargs=-1, metavar="[APP] KEY")
@app_options
def get(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Print the value of one config var."""
    name, keys = pick(args, app, remote, lambda _text: len(args) == 1)
    if len(keys) != 1:
        raise click.UsageError("Give one KEY, after the app or with -a APP.")
    found = client().get(path(name, "config"))
    if keys[0] not in found:
        raise InvalidInput(f"The config var {keys[0]!r} of {name} is not set.")
    click.echo(found[keys[0]])


@click.command("config:set", epilog="Example: shipway config:set hello RAILS_ENV=production")
@click.argument("args", nargs=-1, metavar="[APP] KEY=VALUE...")
@app_options
@no_wait_option
def assign(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Set config vars and restart the app with them, as a new release."""
    name, pairs = pick(args, app, remote, lambda text: "=" in text)
    values = key_values(pairs, "config var")
    answer = client().patch(path(name, "config"), values)
    _report("Setting", name, list(values), answer, no_wait=no_wait)


@click.command("config:unset", epilog="Example: shipway config:unset hello RAILS_ENV")
@click.argument("args", nargs=-1, metavar="[APP] KEY...")
@app_options
@no_wait_option
def unset(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Remove config vars and restart the app without them, as a new release."""

    def is_key(text: str) -> bool:  # one word alone is a key; app names are in lower case
        return len(args) == 1 or not APP_LIKE.fullmatch(text)

    name, keys = pick(args, app, remote, is_key)
    if not keys:
        raise click.UsageError("Missing KEY.")
    answer = client().patch(path(name, "config"), dict.fromkeys(keys))
    _report("Unsetting", name, keys, answer, no_wait=no_wait)


def _report(
    verb: str, name: str, keys: list[str], answer: Mapping[str, Any], *, no_wait: bool
) -> None:
    release, what = answer["release"], f"{verb} {', '.join(keys)}"
    if not answer["changed"]:
        say(f"{what} of {name}... done, nothing changed")
    elif release is None:
        say(f"{what} of {name}... done, for its first release")
    elif no_wait:
        say(f"{what} and restarting {name}... started, v{release['version']}")
    else:
        try:
            wait_for_release(name, release)
        except CommandFailed:
            progress("       The config is stored all the same, and goes into the next release.")
            raise
        say(f"{what} and restarting {name}... done, v{release['version']}")


COMMANDS = (config, get, assign, unset)
