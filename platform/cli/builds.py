"""Builds and releases: showing them, following one, building again, cancelling, rolling back."""

import click

from shipway.platform.cli.common import (
    CommandFailed,
    ago,
    app_options,
    change_settings,
    client,
    duration,
    follow_build,
    is_version,
    json_option,
    no_wait_option,
    only_app,
    path,
    pick,
    print_json,
    progress,
    say,
    show_settings,
    table,
    version_number,
    wait_for_release,
)

limit_option = click.option(
    "-n", "--num", type=click.IntRange(1, 200), default=15, help="How many, newest first."
)


@click.command("builds", epilog="Example: shipway builds hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@limit_option
@json_option
def builds(
    args: tuple[str, ...], *, app: str | None, remote: str | None, num: int, as_json: bool
) -> None:
    """List an app's builds: what became of each, why one failed, and where the time went."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "builds"), limit=num)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            **row,
            "commit": row["source"] or row["commit"][:8],
            "release": f"v{row['version']}" if row["version"] else "",
            "when": ago(row["created_at"]),
            "took": _took(row),
            "reason": (row["reason"] or "") if row["outcome"].endswith("failed") else "",
            "phases": " ".join(f"{k} {v:.1f}s" for k, v in (row["phases"] or {}).items()),
        }
        for row in found
    ]
    columns = {
        "id": "ID",
        "outcome": "STATE",
        "release": "RELEASE",
        "commit": "COMMIT",
        "branch": "BRANCH",
        "user": "BY",
        "when": "WHEN",
        "took": "TOOK",
        "phases": "PHASES",
    }
    columns |= {"reason": "REASON"} if any(row["reason"] for row in rows) else {}
    table(rows, columns, f"{name} has no builds yet: git push shipway main")


def _took(row: dict[str, float | None]) -> str:
    started, ended = row["started_at"], row["ended_at"]
    return duration(ended - started) if started and ended else ""


@click.command("builds:info", epilog="Example: shipway builds:info hello 7")
@click.argument("args", nargs=-1, metavar="[APP] [ID]")
@app_options
@json_option
def build_info(
    args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool
) -> None:
    """Show all about a build, and where its time went; the newest without an ID."""
    name, number = _build(args, app, remote)
    found = client().get(path(name, "builds", number))
    if as_json:
        print_json(found)
        return
    say(f"=== Build {found['id']} of {name}")
    for label, value in {
        "State": found["outcome"],
        "Reason": found["reason"],
        "Builder": found["builder"],
        "Commit": found["commit"],
        "Source": found["source"] or found["branch"],
        "By": found["user"],
        "When": ago(found["created_at"]),
        "Took": _took(found),
        "Release": f"v{found['version']}" if found["version"] else "",
        "Image": found["image"],
    }.items():
        if value:
            say(f"{label + ':':<10}{value}")
    phases = found["phases"] or {}
    longest = max(map(len, phases), default=0)
    for phase, seconds in phases.items():
        say(f"  {phase:<{longest}}  {seconds:8.2f} s")


@click.command("builds:output", epilog="Example: shipway builds:output -t hello 7")
@click.argument("args", nargs=-1, metavar="[APP] [ID]")
@app_options
@click.option("-t", "--tail", is_flag=True, help="Follow it to its end.")
def output(args: tuple[str, ...], *, app: str | None, remote: str | None, tail: bool) -> None:
    """Show what a build and its deploy said; the newest without an ID."""
    _show_output(*_build(args, app, remote), tail=tail)


@click.command("builds:attach", epilog="Example: shipway builds:attach hello")
@click.argument("args", nargs=-1, metavar="[APP] [ID]")
@app_options
def attach(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Show a build and its deploy from the beginning and to their end, as the push did; the newest without an ID.

    Ctrl-C lets go of it, and it goes on; builds:cancel ends it.
    """
    _show_output(*_build(args, app, remote), tail=True)


def _show_output(name: str, number: str, *, tail: bool) -> None:
    for event in client().stream(
        path(name, "builds", number, "output"), follow=1 if tail else None
    ):
        if event.name == "lines":
            for line in event.data:
                say(line)
        elif event.name == "end" and tail and event.data["state"] != "live":
            raise CommandFailed(event.data["reason"] or f"It was {event.data['state']}.")


@click.command("builds:rebuild", epilog="Example: shipway builds:rebuild hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@no_wait_option
def rebuild(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Build the current commit again and deploy it."""
    name = only_app(args, app, remote)
    build = client().post(path(name, "builds"))
    what = f"Rebuilding {name} at {build['source'] or build['commit'][:8]}..."
    follow_build(name, build, what, no_wait=no_wait)


@click.command("builds:cancel", epilog="Example: shipway builds:cancel hello")
@click.argument("args", nargs=-1, metavar="[APP] [ID]")
@app_options
def cancel(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """End a build that waits or runs, or the deploy after it; the newest without an ID."""
    name, number = _build(args, app, remote)
    build = client().post(path(name, "builds", number, "cancel"))
    say(f"Cancelling build {build['id']} of {name}... done")


def _build(args: tuple[str, ...], app: str | None, remote: str | None) -> tuple[str, str]:
    name, rest = pick(args, app, remote, str.isdecimal)
    if len(rest) > 1:
        raise click.UsageError("Give one build's ID.")
    return name, rest[0] if rest else "latest"


# -- deploys ------------------------------------------------------------------------------------


@click.command("deploys:settings", epilog="Example: shipway deploys:settings hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def settings(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show how long an app's processes have to boot, to drain and to end."""
    show_settings(args, app, remote, "deploy-settings", "SECONDS", as_json=as_json)


@click.command("deploys:set", epilog="Example: shipway deploys:set hello drain-timeout=60")
@click.argument("args", nargs=-1, metavar="[APP] KEY=SECONDS...")
@app_options
def assign(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Change how an app is deployed, at once; KEY= takes one back to the platform's.

    Keys: boot-timeout, drain-timeout, stop-timeout, release-timeout.
    """
    say(
        change_settings(
            args, app, remote, "deploy-settings", "KEY=SECONDS, such as drain-timeout=60"
        )
    )


# -- releases -----------------------------------------------------------------------------------


@click.command("releases", epilog="Example: shipway releases hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@limit_option
@json_option
def releases(
    args: tuple[str, ...], *, app: str | None, remote: str | None, num: int, as_json: bool
) -> None:
    """List an app's releases."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "releases"), limit=num)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            **row,
            "release": f"v{row['version']}",
            "state": "current" if row["current"] else row["state"],
            "when": ago(row["created_at"]),
        }
        for row in found
    ]
    columns = {
        "release": "RELEASE",
        "description": "DESCRIPTION",
        "state": "STATE",
        "user": "BY",
        "when": "WHEN",
    }
    table(rows, columns, f"{name} has no releases yet: git push shipway main")


@click.command("releases:info", epilog="Example: shipway releases:info hello v3")
@click.argument("args", nargs=-1, metavar="[APP] [VERSION]")
@app_options
@json_option
def info(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show a release; the one that serves without a version."""
    name, version = _release(args, app, remote)
    found = client().get(path(name, "releases", version or "current"))
    if as_json:
        print_json(found)
        return
    say(f"=== v{found['version']} of {name}")
    for label, value in {
        "Description": found["description"],
        "State": "current" if found["current"] else found["state"],
        "Reason": found["reason"],
        "By": found["user"],
        "Commit": found["commit"],
        "Build": found["build"],
        "Image": found["image"],
        "Scale": " ".join(f"{kind}={count}" for kind, count in found["formation"].items()),
        "Config": ", ".join(found["config"]),
        "When": ago(found["created_at"]),
    }.items():
        if value:
            say(f"{label + ':':<13}{value}")
    for kind, command in found["processes"].items():
        say(f"{kind + ':':<13}{command}")


@click.command("releases:output", epilog="Example: shipway releases:output hello v3")
@click.argument("args", nargs=-1, metavar="[APP] [VERSION]")
@app_options
def release_output(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Show what a release's build and deploy said."""
    name, version = _release(args, app, remote)
    for event in client().stream(path(name, "releases", version or "current", "output")):
        for line in event.data if event.name == "lines" else ():
            say(line)


@click.command("releases:rollback", epilog="Example: shipway rollback hello v3")
@click.argument("args", nargs=-1, metavar="[APP] [VERSION]")
@app_options
@no_wait_option
def rollback(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Go back to a release's code, config, process types and scale; to the one before without a version."""
    name, version = _release(args, app, remote)
    answer = client().post(path(name, "rollback"), {"version": version} if version else {})
    what = f"Rolling back {name} to v{answer['to']}..."
    if no_wait:
        say(f"{what} started, v{answer['release']['version']}")
        return
    wait_for_release(name, answer["release"])
    say(f"{what} done, v{answer['release']['version']}")
    progress(f"       To undo, run: shipway rollback {name} v{answer['from']}")


@click.command("releases:cancel", epilog="Example: shipway releases:cancel hello")
@click.argument("args", nargs=-1, metavar="[APP] [VERSION]")
@app_options
def cancel_release(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """End a deploy that waits or is under way, with what served before as it is; the newest without a version."""
    name, version = _release(args, app, remote)
    found = client().post(path(name, "releases", version or "newest", "cancel"))
    say(f"Cancelling v{found['version']} of {name}... done")


def _release(args: tuple[str, ...], app: str | None, remote: str | None) -> tuple[str, int | None]:
    name, rest = pick(args, app, remote, lambda text: is_version(text) and len(args) == 1)
    if len(rest) > 1:
        raise click.UsageError("Give one version, such as v3.")
    return name, version_number(rest[0]) if rest else None


COMMANDS = (
    builds,
    build_info,
    output,
    attach,
    rebuild,
    cancel,
    settings,
    assign,
    releases,
    info,
    release_output,
    cancel_release,
    rollback,
)
