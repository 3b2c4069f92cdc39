"""How requests get to an app: domains, settings, maintenance, metrics."""

from pathlib import Path

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
    say,
    session,
    size,
)
from shipway.platform.errors import InvalidInput

Args = tuple[str, ...]
BARS = " ▁▂▃▄▅▆▇█"

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


# -- settings of requests, and maintenance -------------------------------------------------------


@click.command("routing", epilog="Example: shipway routing hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def settings(args: Args, *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show what is set about an app's requests."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "routing"))
    if as_json:
        print_json(found)
        return
    values = {**found["settings"], **({"maintenance": "on"} if found["maintenance"] else {})}
    for key, value in values.items():
        say(f"{key + ':':<19}{value}")


@click.command(
    "routing:set",
    epilog="Example: shipway routing:set hello rate-limit=10 allow=192.0.2.0/24 error-page=@oops.html",
)
@click.argument("args", nargs=-1, metavar="[APP] KEY=VALUE...")
@app_options
def assign(args: Args, *, app: str | None, remote: str | None) -> None:
    """Set how an app's requests are treated; KEY= takes one back, @FILE is a file's content.

    \b
    force-https=on           send plain requests to https://
    rate-limit=10            requests a second of one client, over ten seconds
    allow=NETWORK,NETWORK    who may ask at all
    basic-auth=USER:PASSWORD (several: "A:… B:…")
    sticky-sessions=on       a client stays with an instance, by a cookie
    app-protocol=h2c         HTTP/2 without TLS to the app's instances
    response-timeout=120     seconds to the first byte, and between two
    tunnel-timeout=7200      seconds without a byte on a WebSocket
    error-page, maintenance-page=https://… or @page.html
    """  # noqa: D301 -- click's mark for lines to be left as they are is a backspace
    name, pairs = pick(args, app, remote, lambda text: "=" in text)
    values = {
        key: _content(key, value[1:]) if value.startswith("@") else value
        for key, value in key_values(pairs, "setting").items()
    }
    client().patch(path(name, "routing"), values)
    _wait(name)
    say(f"Setting {', '.join(values)} of {name}... done")


def _content(key: str, file: str) -> str:
    if session().over_ssh:  # it would be a file of the server's
        raise InvalidInput(f"{key}=@FILE works on your own machine only, not over SSH.")
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as text: {error}.") from None


@click.command("maintenance", epilog="Example: shipway maintenance hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def maintenance(args: Args, *, app: str | None, remote: str | None) -> None:
    """Say whether an app is in maintenance: on or off."""
    found = client().get(path(only_app(args, app, remote), "routing"))
    say("on" if found["maintenance"] else "off")


@click.command("maintenance:on", epilog="Example: shipway maintenance:on hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def maintenance_on(args: Args, *, app: str | None, remote: str | None) -> None:
    """Answer every request to an app with its maintenance page; it runs on."""
    name = only_app(args, app, remote)
    client().call("PUT", path(name, "maintenance"), {"on": True})
    _wait(name)
    say(f"Enabling maintenance mode for {name}... done")


@click.command("maintenance:off", epilog="Example: shipway maintenance:off hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def maintenance_off(args: Args, *, app: str | None, remote: str | None) -> None:
    """Let requests get to an app again."""
    name = only_app(args, app, remote)
    client().call("PUT", path(name, "maintenance"), {"on": False})
    _wait(name)
    say(f"Disabling maintenance mode for {name}... done")


# -- metrics ------------------------------------------------------------------------------------


@click.command("metrics", epilog="Example: shipway metrics hello --minutes 10")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@click.option("-m", "--minutes", default=60, show_default=True, help="How far back, to 720.")
@json_option
def metrics(
    args: Args, *, app: str | None, remote: str | None, minutes: int, as_json: bool
) -> None:
    """Show an app's requests: how many, how they came out, how long they took."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "metrics"), minutes=minutes)
    if as_json:
        print_json(found)
        return
    say(f"=== {name}, last {found['minutes']} min")
    statuses = " ".join(f"{key}={count}" for key, count in found["statuses"].items() if count)
    say(f"Requests:  {found['requests']} ({found['rate']:g} a second) {statuses}".rstrip())
    if found["requests"]:
        times = (f"p{key} {found[f'p{key}']} ms" for key in (50, 95, 99))
        say(f"Time:      {', '.join(times)}")
        say(f"Sent:      {size(found['bytes'])}")
        say(f"Graph:     {_graph([one['requests'] for one in found['series']])}")


def _graph(series: list[int]) -> str:
    """A bar of eight heights for each minute, the last sixty at most."""
    top = max(series) or 1
    return "".join(BARS[-(-count * 8 // top)] for count in series[-60:])


def _some(hosts: list[str]) -> list[str]:
    if not hosts:
        raise click.UsageError("Missing HOST.")
    return hosts


COMMANDS = (
    *(domains, add, remove, clear, wait, settings, assign),
    *(maintenance, maintenance_on, maintenance_off, metrics),
)
