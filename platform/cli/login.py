"""Who one is, and where: login, logout, whoami."""

import sys

import click

from shipway.platform.cli.client import Client, local_client
from shipway.platform.cli.common import client, json_option, print_json, progress, say, session
from shipway.platform.errors import InvalidInput, ShipwayError


@click.command("login", epilog="Example: shipway login https://shipway.example.com")
@click.argument("url")
@click.option("-u", "--user", metavar="NAME", help="Your name; asked for without.")
@click.option("--token-stdin", is_flag=True, help="Read a token that you have from stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
def login(url: str, *, user: str | None, token_stdin: bool, password_stdin: bool) -> None:
    """Log in to a platform; the commands that follow go there."""
    _refuse_over_ssh()
    server = Client(url if "://" in url else f"https://{url}")
    if token_stdin:
        server.token = sys.stdin.readline().strip()
    else:
        name = user or click.prompt("User", err=True)
        if password_stdin:
            password = sys.stdin.readline().rstrip("\n")
        else:
            password = click.prompt("Password", hide_input=True, err=True)
        body = {"user": name, "password": password, "name": f"login from {_machine()}"}
        server.token = server.post("/login", body)["token"]
    who = server.get("/whoami")["name"]
    session().credentials.keep(server, who, made=not token_stdin)
    say(f"Logged in to {server.url} as {who}.")
    progress(
        "       `shipway git:remote -a APP` sets a repository up to push over HTTP with this login;"
    )
    progress(
        "       elsewhere git takes any user name, and a token (`shipway tokens:create`) as the password."
    )


def _machine() -> str:
    from socket import gethostname

    return gethostname()[:60]


@click.command("logout", epilog="Example: shipway logout")
def logout() -> None:
    """Forget the login, and end the token that it made."""
    _refuse_over_ssh()
    kept = session().credentials
    found = kept.find(session().url)
    if found is None:
        raise InvalidInput("You are not logged in.")
    if kept.made_token(found.url):
        try:
            found.delete("/tokens/current")
        except ShipwayError as error:
            progress(f" !     The token itself could not be ended: {error.message}")
    kept.forget(found.url)
    say(f"Logged out of {found.url}.")


@click.command("whoami", epilog="Example: shipway whoami")
@json_option
def whoami(*, as_json: bool) -> None:
    """Show who you are, and where."""
    found = client().get("/whoami")
    if as_json:
        print_json({**found, "url": client().url})
    else:
        say(found["name"])
        local = not session().over_ssh and local_client()
        here = " (this machine)" if local and local.token == client().token else ""
        progress(f"       at {client().url}{here}")


def _refuse_over_ssh() -> None:
    if session().over_ssh:
        raise InvalidInput("Your key is your login here; this command works on your own machine.")


COMMANDS = (login, logout, whoami)
