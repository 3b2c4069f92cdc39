"""How requests get to an app: domains."""

import click

from shipway.platform.cli_common import (
    CommandFailed,
    app_options,
    client,
    json_option,
    no_wait_option,
    only_app,
    path,
    pick,
    print_json,
    say,
)

Args = tuple[str, ...]

# -- domains ------------------------------------------------------------------------------------


def _is_host(text: str) -> bool:
    return "." in text


def _wait(app: str, host: str = "") -> None:
    """Return once the router has taken up what was changed. Raises CommandFailed."""
    for event in client().stream(path(app, "routed"), ids="", host=host):
        if event.name == "end" and event.data["end"] != "done":
            raise CommandFailed(event.data["message"])


@click.command("domains", epilog="Example: shipway domains hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def domains(args: Args, *, app: str | None, remote: str | None, as_json: bool) -> None:
    """List an app's host names."""
    found = client().get(path(only_app(args, app, remote), "domains"))["domains"]
    if as_json:
        print_json(found)
        return
    for name in found:
        say(name)


@click.command("domains:add", epilog="Example: shipway domains:add hello www.example.com")
@click.argument("args", nargs=-1, metavar="[APP] HOST...")
@app_options
@no_wait_option
def add(args: Args, *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Lead host names to an app (*.example.com: all below it); point their DNS at this server, too."""
    name, hosts = pick(args, app, remote, _is_host)
    for host in _some(hosts):
        found = client().post(path(name, "domains"), {"domain": host})
        say(f"Adding {found['domain']} to {name}... done")
    if not no_wait:
        _wait(name)


@click.command("domains:remove", epilog="Example: shipway domains:remove hello www.example.com")
@click.argument("args", nargs=-1, metavar="[APP] HOST...")
@app_options
def remove(args: Args, *, app: str | None, remote: str | None) -> None:
    """Lead host names to an app no more."""
    name, hosts = pick(args, app, remote, _is_host)
    for host in _some(hosts):
        found = client().delete(path(name, "domains", host))
        say(f"Removing {found['domain']} from {name}... done")


@click.command("domains:clear", epilog="Example: shipway domains:clear hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def clear(args: Args, *, app: str | None, remote: str | None) -> None:
    """Remove all domains that were added to an app."""
    name = only_app(args, app, remote)
    gone = client().delete(path(name, "domains"))["domains"]
    say(f"Removing {', '.join(gone) or 'no domains'} from {name}... done")


@click.command("domains:wait", epilog="Example: shipway domains:wait hello www.example.com")
@click.argument("args", nargs=-1, metavar="[APP] [HOST]")
@app_options
def wait(args: Args, *, app: str | None, remote: str | None) -> None:
    """Return once the router leads an app's domains, or one of them, to it."""
    name, hosts = pick(args, app, remote, _is_host)
    for host in hosts or [""]:
        _wait(name, host)


def _some(hosts: list[str]) -> list[str]:
    if not hosts:
        raise click.UsageError("Missing HOST.")
    return hosts


COMMANDS = (domains, add, remove, clear, wait)
