"""Processes and their log: ps, ps:scale, ps:restart, ps:stop, logs."""

import re
import time
from zlib import crc32

import click

from shipway.platform.cli.common import (
    COLOURS,
    app_options,
    client,
    duration,
    is_terminal,
    json_option,
    no_wait_option,
    only_app,
    path,
    pick,
    print_json,
    progress,
    say,
    size,
    table,
    wait_for_instances,
    wait_for_release,
)
from shipway.platform.errors import InvalidInput
from shipway.platform.terminal import printable

# As Heroku has it: web=3 is how many, web+1 and web-1 are steps, and web=-1 is neither.
CHANGE = re.compile(r"(?P<kind>[A-Za-z0-9_-]+?)(?P<sign>[=+-])(?P<number>\d+)", re.ASCII)
SIGNED = re.compile(r"(?P<kind>[A-Za-z0-9_-]+)=(?P<sign>[+-])(?P<number>\d+)", re.ASCII)
INSTANCE = re.compile(r"[A-Za-z0-9_-]+\.\d+", re.ASCII)
SOURCE = re.compile(r"^(\S+ [^\s\[]+\[([^\]]*)\]:)( .*)$", re.DOTALL)


@click.command("ps", epilog="Example: shipway ps hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@click.option("--all", "everything", is_flag=True, help="Also those that are stopping.")
@json_option
def ps(
    args: tuple[str, ...], *, app: str | None, remote: str | None, everything: bool, as_json: bool
) -> None:
    """List an app's instances: state, uptime, memory, host."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "ps"), all=1 if everything else None)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            **row,
            "state": row["state"] if row["ready"] else "not ready",
            "uptime": duration(time.time() - row["up_at"])
            if row["up_at"] and row["state"] == "up"
            else "",
            "memory": size(row["memory"]),
            "release": f"v{row['version']}",
            "restarts": row["restarts"] or "",
            "reason": (row["reason"] or "") if row["state"] == "crashed" else "",
        }
        for row in found
    ]
    columns = {
        "name": "NAME",
        "state": "STATE",
        "uptime": "UPTIME",
        "memory": "MEMORY",
        "host": "HOST",
        "release": "RELEASE",
    }
    columns |= {"restarts": "RESTARTS"} if any(row["restarts"] for row in rows) else {}
    columns |= {"reason": "REASON"} if any(row["reason"] for row in rows) else {}
    table(rows, columns, f"{name} has no instances: push to it, or scale it up.")


@click.command("ps:scale", epilog="Example: shipway ps:scale hello web=3 worker+1")
@click.argument("args", nargs=-1, metavar="[APP] [TYPE=N|TYPE+N|TYPE-N]...")
@app_options
@no_wait_option
@json_option
def scale(
    args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool, as_json: bool
) -> None:
    """Change how many instances run, or show it. Those that run already are left alone."""
    # A lone `web-1` changes the app of this folder; before another change it is an app's name.
    first_is_app = len(args) > 1 and not re.search(r"[=+]", args[0])
    name, rest = pick(args, app, remote, lambda text: _is_change(text) and not first_is_app)
    if not rest:
        _show_scale(name, as_json=as_json)
        return
    changes = dict(_change(text) for text in rest)
    answer = client().patch(path(name, "formation"), changes)
    if not no_wait:
        wait_for_instances(name, answer["instances"])
    if as_json:
        print_json(answer["formation"])
        return
    now = ", ".join(f"{kind} at {answer['formation'].get(kind, 0)}" for kind in changes)
    say(f"Scaling {name}... {'started' if no_wait else 'done'}, now running {now}.")
    if made := answer["release"]:
        progress(f"       It is release v{made['version']}, since it was not scaled before.")


def _show_scale(name: str, *, as_json: bool) -> None:
    found = client().get(path(name, "formation"))
    if as_json:
        print_json(found)
    else:
        say(
            " ".join(f"{kind}={count}" for kind, count in found.items()) or "Nothing is scaled yet."
        )


def _is_change(text: str) -> bool:
    return CHANGE.fullmatch(text) is not None or "=" in text


def _change(text: str) -> tuple[str, str]:
    """A change as the API takes it: ("web", "3") or ("web", "-1"). Raises InvalidInput."""
    if match := CHANGE.fullmatch(text):
        return match["kind"], match["sign"].lstrip("=") + match["number"]
    if match := SIGNED.fullmatch(text):
        kind, sign, number = match.groups()
        than = "more" if sign == "+" else "fewer"
        raise InvalidInput(
            f"{text!r} is no change of scale: {kind}{sign}{number} is {number} {than} than now,"
            f" {kind}={number} is exactly {number}."
        )
    raise InvalidInput(f"{text!r} is no change of scale: use web=3, web+1 or web-1.")


@click.command("ps:restart", epilog="Example: shipway ps:restart hello")
@click.argument("args", nargs=-1, metavar="[APP] [INSTANCE]")
@app_options
@no_wait_option
def restart(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Restart an app without a dropped request, or one instance such as web.1.

    Restarting the app is a release, "Restart": new instances start beside the old ones, and take over once all are
    healthy. One instance is stopped and started anew; the others take its requests meanwhile.
    """
    name, rest = pick(args, app, remote, lambda text: INSTANCE.fullmatch(text) is not None)
    if len(rest) > 1 or (rest and not INSTANCE.fullmatch(rest[0])):
        raise click.UsageError("Give one instance, such as web.1, or none for all.")
    answer = client().post(path(name, "restart"), {"process": rest[0]} if rest else {})
    what = f"Restarting {rest[0] if rest else name}..."
    if no_wait:
        say(f"{what} started")
    elif rest:
        wait_for_instances(name, answer["instances"])
        say(f"{what} done")
    else:
        wait_for_release(name, answer)
        say(f"{what} done, v{answer['version']}")


@click.command("ps:stop", epilog="Example: shipway ps:stop hello worker")
@click.argument("args", nargs=-1, metavar="[APP] [TYPE]...")
@app_options
@no_wait_option
def stop(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Stop an app, or some of its process types, by scaling to 0."""
    name, kinds = pick(args, app, remote)
    before = client().get(path(name, "formation"))
    chosen = kinds or list(before)
    if not chosen:
        raise InvalidInput(f"{name} has no process types yet: there is nothing to stop.")
    answer = client().patch(path(name, "formation"), dict.fromkeys(chosen, 0))
    if not no_wait:
        wait_for_instances(name, answer["instances"])
    say(f"Stopping {', '.join(chosen)} of {name}... {'started' if no_wait else 'done'}")
    back = " ".join(f"{kind}={before[kind]}" for kind in chosen if before.get(kind))
    if back:
        progress(f"       To start again: shipway ps:scale {name} {back}")


@click.command("logs", epilog="Example: shipway logs -t hello -p web")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@click.option("-t", "--tail", is_flag=True, help="Go on with what comes, across deploys.")
@click.option(
    "-n", "--num", type=click.IntRange(0, 100_000), default=100, help="How many lines of the past."
)
@click.option("-p", "--process-type", "--ps", "kind", metavar="NAME", help="web, web.1, router…")
@click.option("-d", "--dyno-name", "instance", metavar="NAME", help="One instance, such as web.1.")
@click.option(
    "-s",
    "--source",
    type=click.Choice(["app", "shipway"]),
    help="The app's lines or the platform's.",
)
def logs(
    args: tuple[str, ...],
    *,
    app: str | None,
    remote: str | None,
    tail: bool,
    num: int,
    kind: str | None,
    instance: str | None,
    source: str | None,
) -> None:
    """Show an app's log: its instances, the router and the platform in one stream."""
    name = only_app(args, app, remote)
    colours = is_terminal()
    stream = client().stream(
        path(name, "logs"),
        endless=tail,
        num=str(num),
        tail=1 if tail else None,
        process=instance or kind,
        source=source,
    )
    for event in stream:
        text = "".join(_shown(line, colours=colours) + "\n" for line in event.data)
        click.echo(text, nl=False)


def _shown(line: str, *, colours: bool) -> str:
    """A line that cannot steer the terminal; on one, with a colour for each process."""
    match = SOURCE.match(line) if colours else None
    if not match:
        return printable(line).replace("\n", " ")
    colour = COLOURS[crc32(match[2].encode()) % len(COLOURS)]
    text = printable(match[3]).replace("\n", " ")
    return click.style(printable(match[1]), fg=colour) + text + click.style("", reset=True)


COMMANDS = (ps, scale, restart, stop, logs)
