"""How apps are built, and apps that do not come by a push."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import click

from shipway.platform.cli.common import (
    app_options,
    change_settings,
    client,
    follow_build,
    json_option,
    key_values,
    no_wait_option,
    only_app,
    path,
    pick,
    print_json,
    progress,
    say,
    session,
    show_settings,
    table,
)
from shipway.platform.errors import InvalidInput

FETCH_TIMEOUT = 60.0
BUILDERS = ("auto", "buildpacks", "dockerfile")


# -- settings -----------------------------------------------------------------------------------


@click.command("builds:settings", epilog="Example: shipway builds:settings hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def settings(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show how an app is built: builder, folder, limits."""
    show_settings(args, app, remote, "build-settings", "VALUE", as_json=as_json)


@click.command("builds:set", epilog="Example: shipway builds:set hello build-dir=web memory=1G")
@click.argument("args", nargs=-1, metavar="[APP] KEY=VALUE...")
@app_options
def assign(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Change how an app is built, from its next build on; KEY= takes one back to the platform's.

    Keys: builder, build-dir, dockerfile, target, memory, cpus, pids, disk, timeout, and arg.NAME
    for an argument of a Dockerfile.
    """
    done = change_settings(args, app, remote, "build-settings", "KEY=VALUE, such as build-dir=web")
    say(f"{done}, for its next build")


@click.command("builder:set", epilog="Example: shipway builder:set hello dockerfile")
@click.argument("args", nargs=-1, metavar="[APP] auto|buildpacks|dockerfile")
@app_options
def builder(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Choose who builds an app; auto takes a Dockerfile where there is one."""
    name, rest = pick(args, app, remote, lambda text: len(args) == 1 and text in BUILDERS)
    if len(rest) != 1:
        raise click.UsageError(f"Give one of {', '.join(BUILDERS)}.")
    client().patch(path(name, "build-settings"), {"builder": rest[0]})
    say(f"Setting the builder of {name} to {rest[0]}... done, for its next build")


# -- secrets ------------------------------------------------------------------------------------


@click.command("builds:secrets", epilog="Example: shipway builds:secrets hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def secrets(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """List the names of an app's build secrets; each is the file /run/secrets/NAME in a build."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "build-secrets"))["secrets"]
    if as_json:
        print_json(found)
        return
    table([{"name": each} for each in found], {"name": "NAME"}, f"{name} has no build secrets.")


@click.command("builds:secrets:set", epilog="Example: shipway builds:secrets:set hello TOKEN=abc")
@click.argument("args", nargs=-1, metavar="[APP] NAME=VALUE...")
@app_options
def set_secrets(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Set build secrets; NAME=- reads the value from the standard input."""
    name, pairs = pick(args, app, remote, lambda text: "=" in text)
    given = key_values(pairs, "build secret", "NAME")
    values = {key: sys.stdin.read() if value == "-" else value for key, value in given.items()}
    client().patch(path(name, "build-secrets"), values)
    say(f"Setting build secrets {', '.join(values)} of {name}... done, for its next build")


@click.command("builds:secrets:unset", epilog="Example: shipway builds:secrets:unset hello TOKEN")
@click.argument("args", nargs=-1, metavar="[APP] NAME...")
@app_options
def unset_secrets(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Remove build secrets."""
    name, names = pick(args, app, remote, lambda _text: len(args) == 1)
    if not names:
        raise click.UsageError("Missing NAME.")
    client().patch(path(name, "build-secrets"), dict.fromkeys(names))
    say(f"Unsetting build secrets {', '.join(names)} of {name}... done")


# -- buildpacks ---------------------------------------------------------------------------------


@click.command("buildpacks", epilog="Example: shipway buildpacks hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def buildpacks(
    args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool
) -> None:
    """List the buildpacks that an app is told to use; without any, those that fit are found."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "buildpacks"))["buildpacks"]
    if as_json:
        print_json(found)
        return
    rows = [{"number": number, "buildpack": each} for number, each in enumerate(found, 1)]
    empty = f"{name} is built by the buildpacks that fit."
    table(rows, {"number": "#", "buildpack": "BUILDPACK"}, empty)


index_option = click.option(
    "-i", "--index", type=click.IntRange(1, 50), help="Its place in the order, 1 the first."
)


@click.command("buildpacks:set", epilog="Example: shipway buildpacks:set hello shipway/python")
@click.argument("args", nargs=-1, metavar="[APP] BUILDPACK...")
@app_options
@index_option
def set_buildpacks(
    args: tuple[str, ...], *, app: str | None, remote: str | None, index: int | None
) -> None:
    """Use these buildpacks and no others; with -i, put one in another's place."""
    name, wanted = _buildpack_args(args, app, remote)
    if index is not None:
        if len(wanted) != 1:
            raise click.UsageError("With -i give one BUILDPACK.")
        found = _current(name)
        found[index - 1 : index] = wanted
        wanted = found
    _use(name, wanted)


@click.command("buildpacks:add", epilog="Example: shipway buildpacks:add hello shipway/nodejs -i 1")
@click.argument("args", nargs=-1, metavar="[APP] BUILDPACK")
@app_options
@index_option
def add_buildpack(
    args: tuple[str, ...], *, app: str | None, remote: str | None, index: int | None
) -> None:
    """Use one more buildpack, the last of them or at a place."""
    name, wanted = _buildpack_args(args, app, remote)
    found = _current(name)
    place = len(found) if index is None else index - 1
    found[place:place] = wanted
    _use(name, found)


@click.command(
    "buildpacks:remove", epilog="Example: shipway buildpacks:remove hello shipway/nodejs"
)
@click.argument("args", nargs=-1, metavar="[APP] BUILDPACK")
@app_options
@index_option
def remove_buildpack(
    args: tuple[str, ...], *, app: str | None, remote: str | None, index: int | None
) -> None:
    """Use a buildpack no more, given by its name or its place."""
    if index is not None:
        name = only_app(args, app, remote)
        found = _current(name)
        if index > len(found):
            raise InvalidInput(f"{name} has {len(found)} buildpacks, and none at {index}.")
        del found[index - 1]
    else:
        name, [unwanted, *more] = _buildpack_args(args, app, remote)
        found = _current(name)
        if more or unwanted not in found:
            raise InvalidInput(f"{name} does not use {unwanted}: see `shipway buildpacks {name}`.")
        found.remove(unwanted)
    _use(name, found)


@click.command("buildpacks:clear", epilog="Example: shipway buildpacks:clear hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def clear_buildpacks(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Have the buildpacks that fit found again."""
    _use(only_app(args, app, remote), [])


def _buildpack_args(
    args: tuple[str, ...], app: str | None, remote: str | None
) -> tuple[str, list[str]]:
    name, wanted = pick(args, app, remote, lambda _text: len(args) == 1)
    if not wanted:
        raise click.UsageError("Missing BUILDPACK.")
    return name, wanted


def _current(name: str) -> list[str]:
    found: list[str] = client().get(path(name, "buildpacks"))["buildpacks"]
    return found


def _use(name: str, wanted: list[str]) -> None:
    client().call("PUT", path(name, "buildpacks"), {"buildpacks": wanted})
    what = ", ".join(wanted) or "those that fit"
    say(f"Buildpacks of {name}: {what}, from its next build on")


# -- other ways in ------------------------------------------------------------------------------


@click.command("git:from-image", epilog="Example: shipway git:from-image hello nginx:1.27")
@click.argument("args", nargs=-1, metavar="[APP] IMAGE")
@app_options
@no_wait_option
def from_image(
    args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool
) -> None:
    """Deploy an image of a registry as it is."""
    name, rest = pick(args, app, remote, lambda _text: len(args) == 1)
    if len(rest) != 1:
        raise click.UsageError("Give one IMAGE, such as nginx:1.27.")
    build = client().post(path(name, "image"), {"image": rest[0]})
    follow_build(name, build, f"Deploying {rest[0]} as {name}...", no_wait=no_wait)


@click.command("deploy:archive", epilog="Example: shipway deploy:archive hello app.tar.gz")
@click.argument("args", nargs=-1, metavar="[APP] URL|FILE|-")
@app_options
@no_wait_option
def archive(args: tuple[str, ...], *, app: str | None, remote: str | None, no_wait: bool) -> None:
    """Deploy a tar or zip of an app's files, or the archive of an image; - reads the standard input.

    A URL is fetched by this command, and sent on as it comes.
    """
    name, rest = pick(args, app, remote, lambda _text: len(args) == 1)
    if len(rest) != 1:
        raise click.UsageError("Give one URL, one FILE, or - for the standard input.")
    with _opened(rest[0]) as stream:
        build = client().upload(path(name, "archive"), stream)
    follow_build(name, build, f"Deploying the archive as {name}...", no_wait=no_wait)


@contextmanager
def _opened(what: str) -> Iterator[IO[bytes]]:
    if what == "-":
        yield sys.stdin.buffer
        return
    if session().over_ssh:
        raise InvalidInput("Over SSH send the archive itself: `… deploy:archive APP - < app.tar`.")
    if urlsplit(what).scheme in ("http", "https"):
        from urllib.error import URLError
        from urllib.request import urlopen

        try:
            with urlopen(what, timeout=FETCH_TIMEOUT) as response:  # noqa: S310 -- http or https
                yield response
        except URLError as error:
            raise InvalidInput(f"{what} cannot be fetched: {error.reason}.") from None
        return
    try:
        with Path(what).open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"{what} cannot be read: {error.strerror}.") from None


# -- looking ------------------------------------------------------------------------------------


@click.command("images:sbom", epilog="Example: shipway images:sbom hello > bill.json")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def sbom(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show what the image that an app runs is made of; --json is the whole CycloneDX document."""
    name = only_app(args, app, remote)
    found = client().get(path(name, "sbom"))
    if as_json:
        print_json(found)
        return
    rows = [
        {key: each.get(key, "") for key in ("name", "version", "type")}
        for each in found.get("components", ())
    ]
    table(rows, {"name": "NAME", "version": "VERSION", "type": "TYPE"}, "Nothing is known of it.")
    progress("       --json shows the whole bill, in CycloneDX.")


COMMANDS = (
    *(settings, assign, builder, secrets, set_secrets, unset_secrets),
    *(buildpacks, set_buildpacks, add_buildpack, remove_buildpack, clear_buildpacks),
    *(from_image, archive, sbom),
)
