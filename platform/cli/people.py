"""Users, keys and tokens: users, users:create, keys, keys:add, keys:remove, tokens, tokens:create, tokens:revoke."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from shipway.platform.cli.common import (
    ago,
    client,
    json_option,
    print_json,
    progress,
    say,
    session,
    table,
)
from shipway.platform.errors import InvalidInput

MAX_KEY_FILE = 16 << 10  # bytes


@click.command("users", epilog="Example: shipway users")
@json_option
def users(*, as_json: bool) -> None:
    """List all users; for admins."""
    found = client().get("/users")
    if as_json:
        print_json(found)
        return
    rows = [
        {**row, "role": "admin" if row["admin"] else "", "since": ago(row["created_at"])}
        for row in found
    ]
    table(rows, {"name": "NAME", "role": "ROLE", "since": "CREATED"}, "")


@click.command("users:create", epilog="Example: shipway users:create mary")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do everything.")
@click.option("--password", metavar="TEXT", help="`-` reads it from stdin; without, one is made.")
@json_option
def create_user(name: str, *, admin: bool, password: str | None, as_json: bool) -> None:
    """Add a user; for admins."""
    if password == "-":
        password = sys.stdin.readline().rstrip("\n")
    body = {"name": name, "admin": admin} | ({"password": password} if password is not None else {})
    found = client().post("/users", body)
    if as_json:
        print_json(found)
        return
    say(f"Creating user {name}... done")
    if "password" in found:
        say(f"Password: {found['password']}")
        progress("       It is shown this once.")


# -- SSH keys -----------------------------------------------------------------------------------


@click.command("keys", epilog="Example: shipway keys")
@json_option
def keys(*, as_json: bool) -> None:
    """List your SSH keys."""
    found = client().get("/keys")
    if as_json:
        print_json(found)
        return
    columns = {"name": "NAME", "kind": "KIND", "fingerprint": "FINGERPRINT"}
    table(found, columns, "You have no keys yet: shipway keys:add")


@click.command("keys:add", epilog="Example: shipway keys:add ~/.ssh/id_ed25519.pub")
@click.argument("file", required=False)
@click.option("--name", default="", help="What to call it, if not by its comment.")
@click.option("--user", metavar="NAME", help="Whose it is; for admins.")
def add_key(file: str | None, *, name: str, user: str | None) -> None:
    """Register a public SSH key: FILE, `-` for stdin, or the one in ~/.ssh."""
    line = _key_text(file)
    body = {"key": line, "name": name} | ({"user": user} if user else {})
    found = client().post("/keys", body)
    say(f"Adding the key {found['name']} ({found['fingerprint']})... done")


def _key_text(file: str | None) -> str:
    if session().over_ssh:
        if file not in (None, "-"):
            raise InvalidInput("Over SSH a key comes on stdin: `ssh … keys:add < id_ed25519.pub`.")
        file = "-"
    if file == "-":
        return sys.stdin.read(MAX_KEY_FILE)
    path = Path(file).expanduser() if file else _own_key()
    try:
        with path.open() as source:
            return source.read(MAX_KEY_FILE)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is no public key.") from None


def _own_key() -> Path:
    folder = Path("~/.ssh").expanduser()
    for kind in ("ed25519", "ecdsa", "rsa"):
        if (path := folder / f"id_{kind}.pub").exists():
            return path
    raise InvalidInput("There is no key in ~/.ssh: make one with `ssh-keygen -t ed25519`.")


@click.command("keys:remove", epilog="Example: shipway keys:remove laptop")
@click.argument("key", metavar="NAME|FINGERPRINT")
def remove_key(key: str) -> None:
    """Remove one of your SSH keys."""
    found = client().delete("/keys", key=key)
    say(f"Removing the key {found['name']} ({found['fingerprint']})... done")


# -- tokens -------------------------------------------------------------------------------------


@click.command("tokens", epilog="Example: shipway tokens")
@json_option
def tokens(*, as_json: bool) -> None:
    """List your tokens, without their secrets."""
    found = client().get("/tokens")
    if as_json:
        print_json(found)
        return
    rows = [
        {**row, "made": ago(row["created_at"]), "expires": _expires(row["expires_at"])}
        for row in found
    ]
    columns = {"id": "ID", "name": "NAME", "made": "CREATED", "expires": "EXPIRES"}
    table(rows, columns, "You have no tokens yet: shipway tokens:create NAME")


def _expires(at: float | None) -> str:
    """The day on which a token ends, or ended."""
    if at is None:
        return "never"
    day = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    return f"expired {day}" if at <= time.time() else day


@click.command("tokens:create", epilog="Example: shipway tokens:create laptop --days 90")
@click.argument("name")
@click.option("--days", type=float, help="When it expires; without, never: until it is revoked.")
@json_option
def create_token(name: str, *, days: float | None, as_json: bool) -> None:
    """Make a token for the API and git over HTTP; it is shown this once."""
    found = client().post("/tokens", {"name": name} | ({"days": days} if days else {}))
    if as_json:
        print_json(found)
    else:
        click.echo(found["token"])
        progress("       It is shown this once. Git over HTTP takes it as the password.")


@click.command("tokens:revoke", epilog="Example: shipway tokens:revoke 7")
@click.argument("number", type=int, metavar="ID")
def revoke_token(number: int) -> None:
    """End a token at once."""
    found = client().delete(f"/tokens/{number}")
    say(f"Revoking the token {found['name']}... done")


COMMANDS = (
    users,
    create_user,
    keys,
    add_key,
    remove_key,
    tokens,
    create_token,
    revoke_token,
)
