"""What the commands share: which app and which server is meant, tables, colours, waiting for a deploy."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from shipway.platform.cli.client import Client, Credentials, local_client, nobody, segment
from shipway.platform.errors import InvalidInput, ShipwayError
from shipway.platform.names import app_name
from shipway.platform.terminal import printable

REMOTE = "shipway"  # the git remote's name unless -r names another
COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "bright_red")

Command = TypeVar("Command", bound=Callable[..., Any])


class CommandFailed(ShipwayError):
    """What was asked for was begun, and came out badly."""


@dataclass
class Session:
    """What holds for the whole command line."""

    over_ssh: bool = False
    debug: bool = False
    url: str = ""
    token: str = ""
    remote: str = REMOTE
    _client: Client | None = field(default=None, repr=False)

    @property
    def credentials(self) -> Credentials:
        """The logins of who runs this."""
        folder = Path(click.get_app_dir("shipway"))
        if not folder.is_absolute():  # XDG_CONFIG_HOME is empty, which is to count as unset
            folder = Path.home() / ".config" / "shipway"
        return Credentials(folder / "credentials.json")

    @property
    def client(self) -> Client:
        """The server that is meant: SHIPWAY_URL, else the git remote's, else the last login's, else this machine's."""
        if self._client is None:
            self._client = self._find()
        return self._client

    def _find(self) -> Client:
        if self.over_ssh or (self.url and self.token):
            return Client(self.url, self.token)
        found = self.credentials.find(self.url or self._server_of_remote())
        if found is None and not self.url:
            found = self.credentials.find() or local_client()
        if found is None:
            raise nobody()
        return Client(found.url, self.token or found.token)

    def _server_of_remote(self) -> str:
        url = self.remote_url()
        return url.rpartition("/")[0] if url.startswith(("http://", "https://")) else ""

    def remote_url(self) -> str:
        """The address of the current folder's git remote, "" without one."""
        if self.over_ssh:
            return ""
        return git("config", "--get", f"remote.{self.remote}.url")

    def app_of_remote(self) -> str:
        """The app that the current folder is pushed to, "" if it is pushed to none."""
        path = urlsplit(self.remote_url()).path
        return path.rpartition("/")[2].removesuffix(".git")


def git(*args: str) -> str:
    """What git says in the current folder, "" if it fails or is missing."""
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def session() -> Session:
    """The session of this command line."""
    found = click.get_current_context().find_object(Session)
    assert found is not None
    return found


def client() -> Client:
    """The server that is meant."""
    return session().client


# -- which app ----------------------------------------------------------------------------------


def app_options(command: Command) -> Command:
    """-a/--app and -r/--remote."""
    command = click.option(
        "-r", "--remote", "remote", metavar="NAME", help="The git remote that names the app."
    )(command)
    return click.option("-a", "--app", "app", metavar="APP", envvar="SHIPWAY_APP", help="The app.")(
        command
    )


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def no_wait_option(command: Command) -> Command:
    """--no-wait."""
    return click.option("--no-wait", is_flag=True, help="Return at once; it goes on by itself.")(
        command
    )


def pick(
    args: Sequence[str],
    app: str | None,
    remote: str | None,
    is_value: Callable[[str], bool] = lambda _text: False,
) -> tuple[str, list[str]]:
    """The app and the other arguments: the app is -a's, else the first argument that is no value, else the remote's."""
    if remote:
        session().remote = remote
    rest = list(args)
    if not app and not remote and rest and not is_value(rest[0]):
        app = rest.pop(0)
    app = app or session().app_of_remote()
    if not app:
        raise InvalidInput(
            "Which app? Name it (`shipway ps APP` or `-a APP`), or run this in a folder with a git"
            f" remote named {session().remote}."
        )
    return app_name(app), rest


def only_app(args: Sequence[str], app: str | None, remote: str | None) -> str:
    """The app, where no other argument is taken."""
    found, rest = pick(args, app, remote)
    if rest:
        raise click.UsageError(f"Got an argument too many: {' '.join(rest)}")
    return found


def path(app: str, *parts: str | int) -> str:
    """The address of something of an app."""
    return "/apps/" + "/".join(segment(part) for part in (app, *parts))


def key_values(pairs: Sequence[str], what: str, word: str = "KEY") -> dict[str, str]:
    """KEY=VALUE words as a mapping, `what` of which is set: "config var", say. Raises InvalidInput, UsageError."""
    values = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            # The word may be a secret that was meant as a value, so it is not repeated here.
            raise InvalidInput(f"Each {what} is given as {word}=value, in one word.")
        values[key] = value
    if not values:
        raise click.UsageError(f"Missing {word}=VALUE.")
    return values


def version_number(text: str) -> int:
    """The number in v3 or 3. Raises InvalidInput."""
    digits = text.removeprefix("v")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 9:
        raise InvalidInput(f"{text!r} is no version of a release: give one such as v3.")
    return int(digits)


def is_version(text: str) -> bool:
    """Whether the text is a release's version, v3 or 3."""
    return text.removeprefix("v").isdecimal()


# -- output -------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    """A line for people or scripts; nothing in it may steer the terminal."""
    click.echo(printable(text))


def progress(text: str) -> None:
    """A line about what goes on: on stderr, so that stdout holds the result alone."""
    if text.startswith(" !"):
        click.secho(printable(text), fg="red", err=True)
    elif text.startswith(("----->", "=====>")):
        click.secho(printable(text), fg="cyan", err=True)
    else:
        click.echo(printable(text), err=True)


def print_json(data: Any) -> None:
    """For scripts."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=True))


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> None:
    """Aligned columns, {key: heading}; `empty` is said where there are no rows."""
    texts = [[_cell(row.get(key)) for key in columns] for row in rows]
    if not texts:
        progress(empty)
        return
    lines = [list(columns.values()), *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.secho(text.rstrip(), bold=number == 0 or None)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return printable(text).replace("\n", " ").replace("\t", " ")


def ago(at: float | None) -> str:
    """Like `5 min ago`."""
    return "" if at is None else f"{duration(time.time() - at)} ago"


def duration(seconds: float) -> str:
    """Like `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def size(count: float | None) -> str:
    """Bytes in MB (of 1024 × 1024)."""
    return "" if count is None else f"{count / (1 << 20):.0f} MB"


def is_terminal() -> bool:
    """Whether a person sees stdout."""
    return sys.stdout.isatty()


# -- settings that an app may have of its own ---------------------------------------------------


def show_settings(
    args: Sequence[str],
    app: str | None,
    remote: str | None,
    place: str,
    heading: str,
    *,
    as_json: bool,
) -> None:
    """Show all that are in force at `place` of an app, and which are its own."""
    found = client().get(path(only_app(args, app, remote), place))
    if as_json:
        print_json(found["settings"])
        return
    rows = [
        {"key": key, "value": value, "whose": "this app's" if key in found["own"] else ""}
        for key, value in found["settings"].items()
    ]
    table(rows, {"key": "SETTING", "value": heading, "whose": ""}, "")


def change_settings(
    args: Sequence[str], app: str | None, remote: str | None, place: str, example: str
) -> str:
    """Change those that are given; what to say of it. `example` is like KEY=VALUE, such as a=b."""
    name, pairs = pick(args, app, remote, lambda text: "=" in text)
    if not pairs or not all("=" in pair for pair in pairs):
        raise click.UsageError(f"Give settings as {example}.")
    changes = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    client().patch(path(name, place), changes)
    return f"Setting {', '.join(changes)} of {name}... done"


# -- waiting ------------------------------------------------------------------------------------


def follow_output(address: str) -> Mapping[str, Any]:
    """Show what a build or deploy says to its end; how it came out (outputs.End). Raises CommandFailed."""
    end: Mapping[str, Any] = {}
    last = ""
    for event in client().stream(address, follow=1):
        if event.name == "lines":
            for line in event.data:
                progress(line)
            last = "\n".join([last, *event.data])[-4000:]
        elif event.name == "end":
            end = event.data
    if end["state"] != "live":
        reason = end["reason"] or f"It ended as {end['state']}."
        raise CommandFailed(reason if reason not in last else f"Not deployed: {end['state']}.")
    return end


def follow_build(app: str, build: Mapping[str, Any], what: str, *, no_wait: bool) -> None:
    """Show a build and its deploy to their end, or say that it goes on by itself. Raises CommandFailed."""
    if no_wait:
        say(f"{what} started, build {build['id']}")
        return
    end = follow_output(path(app, "builds", build["id"], "output"))
    say(f"{what} done, v{end['version']}")


def wait_for_release(app: str, release: Mapping[str, Any]) -> None:
    """Show a release's deploy to its end. Raises CommandFailed."""
    follow_output(path(app, "releases", release["version"], "output"))


def wait_for_instances(app: str, ids: Sequence[int]) -> None:
    """Return once these instances are as they are wanted. Raises CommandFailed."""
    if not ids:
        return
    for event in client().stream(path(app, "settle"), ids=",".join(map(str, ids))):
        if event.name == "state":
            progress(f"       {event.data['instance']}: {event.data['state']}")
        elif event.name == "end" and event.data["end"] != "done":
            raise CommandFailed(event.data["message"])
