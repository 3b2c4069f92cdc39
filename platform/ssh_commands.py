"""What a session over SSH may run: git's two services and the command line, found from the command by shell quoting."""

import contextlib
import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import delete

from shipway.platform import auth, repos
from shipway.platform.errors import ShipwayError
from shipway.platform.hookserver import Push
from shipway.platform.models import Token, User
from shipway.platform.receiver import Receiver
from shipway.platform.store import Store

SERVICES = ("receive-pack", "upload-pack")
MAX_COMMAND = 64 << 10  # characters
TOKEN_TIME = (
    86400.0  # seconds after which a session's token ends, should its removal ever be missed
)
_PROTOCOL = re.compile(r"version=[0-2](:version=[0-2])*")


class CommandRefused(ShipwayError):
    """The command cannot be run here; the message says what can."""

    exit_code = 2


@dataclass(frozen=True)
class Child:
    """A process to run for a session."""

    argv: list[str]
    env: dict[str, str]


@contextlib.contextmanager
def prepared(
    store: Store,
    receiver: Receiver,
    user_id: int,
    command: str | None,
    environ: Mapping[str, str],
) -> Iterator[Child]:
    """The process that a session's command asks for; what it needs is given back at the end. Raises ShipwayError."""
    argv = _split(command or "")
    if not argv:
        raise CommandRefused(_greeting(store, user_id))
    if argv[0] == "git":
        argv = [f"git-{argv[1]}" if len(argv) > 1 else "git", *argv[2:]]
    name = argv[0].removeprefix("git-")
    if argv[0].startswith("git-") and name in SERVICES:
        if len(argv) != 2:
            raise CommandRefused(f"git {name} takes exactly one path, such as /hello.")
        protocol = environ.get("GIT_PROTOCOL", "")
        with git_service(store, receiver, user_id, name, app_of(argv[1]), protocol) as child:
            yield child
    elif argv[0].startswith("git-") or argv[0] == "git":
        raise CommandRefused("Of git only push, fetch and clone are served here.")
    else:
        with _command_line(store, user_id, argv) as child:
            yield child


@contextlib.contextmanager
def git_service(
    store: Store,
    receiver: Receiver,
    user_id: int,
    name: str,
    app_name: str,
    protocol: str,
    *options: str,
) -> Iterator[Child]:
    """Git's side of a push or a fetch by a user who may. Raises InvalidName, NotFound, Forbidden."""
    with store.reading() as db:
        app = auth.app_for(db, db.get_one(User, user_id), app_name)
    receiver.repos.ensure(app.name, app.id)
    env = {"GIT_PROTOCOL": protocol} if _PROTOCOL.fullmatch(protocol) else {}
    hooks = receiver.server.hooks
    argv = receiver.repos.service(app.name, name, *options, hooks=hooks)
    with receiver.server.begin(Push(app.id, app.name, user_id)) as hook_env:
        yield Child(argv, repos.environment(**env, **hook_env))


def app_of(path: str) -> str:
    """The app that a path in a git URL names: `/hello`, `hello` and `hello.git` are the same."""
    return path.removeprefix("/").removesuffix("/").removesuffix(".git")


@contextlib.contextmanager
def _command_line(store: Store, user_id: int, argv: list[str]) -> Iterator[Child]:
    """The same command line people have on their own machines, with a token that lives as long as the session."""
    name = f"ssh session {secrets.token_hex(8)}"
    with store.transaction() as db:
        now = store.now(db)
        token = auth.make_token(db, db.get_one(User, user_id), name, now, now + TOKEN_TIME)
    env = {
        "PATH": repos.PATH,
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "PYTHONUNBUFFERED": "1",
        "SHIPWAY_URL": store.settings.dashboard,
        "SHIPWAY_TOKEN": token,
    }
    try:
        yield Child(
            [sys.executable, "-P", "-m", "shipway.platform.cli.main", "--over-ssh", *argv], env
        )
    finally:
        with store.transaction() as db:
            db.execute(delete(Token).where(Token.user_id == user_id, Token.name == name))


def _split(command: str) -> list[str]:
    if len(command) > MAX_COMMAND or "\0" in command:
        raise CommandRefused(f"A command has at most {MAX_COMMAND} characters, and no NUL byte.")
    try:
        return shlex.split(command)
    except ValueError:
        raise CommandRefused("The command's quotes do not match.") from None


def _greeting(store: Store, user_id: int) -> str:
    with store.reading() as db:
        user = db.get_one(User, user_id)
    return (
        f"Hello {user.name}, your key works. There is no shell here:"
        " git push, or give a command, such as `apps` or `help`."
    )
