"""Apps: apps, apps:create, apps:info, apps:destroy, git:remote, open, url, access."""

import sys

import click

from shipway.platform.cli.client import Client
from shipway.platform.cli.common import (
    ago,
    app_options,
    client,
    git,
    is_terminal,
    json_option,
    only_app,
    path,
    pick,
    print_json,
    progress,
    say,
    session,
    table,
)
from shipway.platform.errors import InvalidInput


@click.command("apps", epilog="Example: shipway apps --json")
@json_option
def apps(*, as_json: bool) -> None:
    """List the apps that you may work on."""
    found = client().get("/apps")
    if as_json:
        print_json(found)
        return
    rows = [
        {
            **app,
            "release": f"v{app['version']}" if app["version"] else "–",
            "up": f"{app['up']} of {app['wanted']}",
        }
        for app in found
    ]
    columns = {"name": "NAME", "release": "RELEASE", "up": "UP", "url": "URL", "owner": "OWNER"}
    table(rows, columns, "There are no apps yet: shipway apps:create NAME")


@click.command("apps:create", epilog="Example: shipway apps:create hello")
@click.argument("name", required=False)
@click.option("-r", "--remote", metavar="NAME", help="Name of the git remote, if not shipway.")
@click.option("--no-remote", is_flag=True, help="Add no git remote.")
@click.option("--ssh", "over_ssh", is_flag=True, help="Let the git remote be over SSH.")
@json_option
def create(
    name: str | None, *, remote: str | None, no_remote: bool, over_ssh: bool, as_json: bool
) -> None:
    """Create an app and, inside a git repository, add the remote to push it to."""
    app = client().post("/apps", {"name": name} if name else {})
    if as_json:
        print_json(app)
    else:
        say(f"Creating {app['name']}... done")
        say(f"{app['url']} | {app['ssh_url' if over_ssh else 'git_url']}")
    here = not session().over_ssh and git("rev-parse", "--is-inside-work-tree") == "true"
    if here and not no_remote:
        _add_remote(app, remote or session().remote, over_ssh=over_ssh)
    elif not as_json:
        progress(f"       git remote add shipway {app['ssh_url']}")


@click.command("git:remote", epilog="Example: shipway git:remote -a hello --ssh")
@click.argument("args", nargs=-1, metavar="[APP]")
@click.option("-a", "--app", "app", metavar="APP", help="The app.")
@click.option("-r", "--remote", default="shipway", metavar="NAME", help="Name of the git remote.")
@click.option("--ssh", "over_ssh", is_flag=True, help="Over SSH, not HTTP.")
def git_remote(args: tuple[str, ...], *, app: str | None, remote: str, over_ssh: bool) -> None:
    """Add the git remote of an app to this repository."""
    _refuse_over_ssh("git:remote")
    found = client().get(path(only_app(args, app, None)))
    if git("rev-parse", "--is-inside-work-tree") != "true":
        raise InvalidInput("This folder is no git repository: run `git init` first.")
    _add_remote(found, remote, over_ssh=over_ssh)


def _add_remote(app: dict[str, str], remote: str, *, over_ssh: bool) -> None:
    url = app["ssh_url"] if over_ssh else f"{client().url}/{app['name']}.git"
    known = git("config", "--get", f"remote.{remote}.url")
    if known == url:
        return
    if known:
        progress(f" !     The git remote {remote} is there already, with another address: {known}")
        progress(f"       git remote set-url {remote} {url}")
        return
    git("remote", "add", remote, url)
    if not over_ssh:
        # git asks `shipway git:credentials` for the name and the token, and nothing is typed or kept in its config.
        key = f"credential.{client().url}.helper"
        git("config", "--replace-all", key, "")
        git("config", "--add", key, "!shipway git:credentials")
    progress(f"       Added the git remote {remote}: git push {remote} HEAD:main")


@click.command(
    "git:credentials",
    hidden=True,
    epilog="Example: git config credential.helper '!shipway git:credentials'",
)
@click.argument("operation")
def git_credentials(operation: str) -> None:
    """Answer git's question for a name and a password (gitcredentials(7))."""
    _refuse_over_ssh("git:credentials")
    if operation != "get":
        return
    asked = dict(line.rstrip("\n").partition("=")[::2] for line in sys.stdin if "=" in line)
    server: Client = client()
    if server.url == f"{asked.get('protocol')}://{asked.get('host')}":
        click.echo(f"username=shipway\npassword={server.token}")


@click.command("apps:info", epilog="Example: shipway apps:info hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def info(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """Show all about an app."""
    found = client().get(path(only_app(args, app, remote)))
    if as_json:
        print_json(found)
        return
    scale = " ".join(f"{kind}={count}" for kind, count in found["formation"].items())
    say(f"=== {found['name']}")
    for label, value in {
        "URL": found["url"],
        "Domains": " ".join(found["domains"][1:]),
        "Git over HTTP": found["git_url"],
        "Git over SSH": found["ssh_url"],
        "Deploy branch": found["deploy_branch"] or "set by the first push",
        "Release": f"v{found['version']}" if found["version"] else "none yet",
        "Commit": (found["commit"] or "")[:12],
        "Scale": scale,
        "Up": f"{found['up']} of {found['wanted']}",
        "Owner": found["owner"],
        "Access": " ".join(found["access"]),
        "Created": ago(found["created_at"]),
    }.items():
        if value:
            say(f"{label + ':':<15}{value}")


@click.command("apps:destroy", epilog="Example: shipway apps:destroy hello --confirm hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@click.option("--confirm", metavar="APP", help="The app's name once more, instead of being asked.")
def destroy(
    args: tuple[str, ...], *, app: str | None, remote: str | None, confirm: str | None
) -> None:
    """Destroy an app with its releases, logs and repository. There is no way back."""
    if not args and not app and not remote:
        app = confirm  # as with Heroku: the confirmation alone names it
    name = only_app(args, app, remote)
    if confirm is None and is_terminal():
        confirm = click.prompt(f"This destroys {name} for good. Type {name} to go on", err=True)
    if confirm != name:
        raise InvalidInput(f"Nothing was destroyed: give `--confirm {name}` to destroy {name}.")
    client().delete(path(name))
    say(f"Destroying {name}... done")


@click.command("url", epilog="Example: curl $(shipway url hello)")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def url(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Print the address that an app answers at."""
    say(client().get(path(only_app(args, app, remote)))["url"])


@click.command("open", epilog="Example: shipway open hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
def open_app(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Open an app in the browser."""
    address = client().get(path(only_app(args, app, remote)))["url"]
    say(address)
    if not session().over_ssh:
        click.launch(address)


# -- access -------------------------------------------------------------------------------------


@click.command("access", epilog="Example: shipway access hello")
@click.argument("args", nargs=-1, metavar="[APP]")
@app_options
@json_option
def access(args: tuple[str, ...], *, app: str | None, remote: str | None, as_json: bool) -> None:
    """List who may work on an app."""
    found = client().get(path(only_app(args, app, remote), "access"))
    if as_json:
        print_json(found)
    else:
        table(found, {"user": "USER", "role": "ROLE"}, "")


@click.command("access:add", epilog="Example: shipway access:add hello mary")
@click.argument("args", nargs=-1, metavar="[APP] USER")
@app_options
def add_access(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Let somebody into an app."""
    name, (user,) = _app_and_user(args, app, remote)
    client().post(path(name, "access"), {"user": user})
    say(f"Adding {user} access to the app {name}... done")


@click.command("access:remove", epilog="Example: shipway access:remove hello mary")
@click.argument("args", nargs=-1, metavar="[APP] USER")
@app_options
def remove_access(args: tuple[str, ...], *, app: str | None, remote: str | None) -> None:
    """Take somebody's access to an app back."""
    name, (user,) = _app_and_user(args, app, remote)
    client().delete(path(name, "access", user))
    say(f"Removing {user} access from the app {name}... done")


def _app_and_user(
    args: tuple[str, ...], app: str | None, remote: str | None
) -> tuple[str, list[str]]:
    # One argument alone is the user, and the app is the git remote's.
    name, users = pick(args, app, remote, lambda _text: len(args) == 1)
    if len(users) != 1:
        raise click.UsageError("Give one user, after the app or with -a APP.")
    return name, users


def _refuse_over_ssh(command: str) -> None:
    if session().over_ssh:
        raise InvalidInput(f"{command} works on your own machine only, not over SSH.")


COMMANDS = (
    apps,
    create,
    info,
    destroy,
    git_remote,
    git_credentials,
    url,
    open_app,
    access,
    add_access,
    remove_access,
)
