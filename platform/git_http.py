"""Git over HTTP (gitprotocol-http(5)): the same pushes and fetches, with a token as the password of any user name.

Bytes go straight between the client and git, both ways at once: nothing is gathered in memory or on disk.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import IO, Any

from flask import Blueprint, Response, current_app, request

from shipway.platform import auth, ssh_commands
from shipway.platform.errors import InvalidInput, Unauthenticated
from shipway.platform.receiver import Receiver
from shipway.platform.repos import Repos
from shipway.platform.store import Store

log = logging.getLogger(__name__)

CHUNK = 64 << 10  # bytes
END_GRACE = 3.0  # seconds that git has after SIGTERM
# What clients send beside a pack is small; a compressed body that grows beyond this is no git client's.
MAX_INFLATED = 64 << 20

blueprint = Blueprint("git_http", __name__)
_receivers: dict[tuple[int, int], Receiver] = {}  # by process and store: gunicorn forks
_making = threading.Lock()


@blueprint.before_request
def lift_limit() -> None:
    """A push is limited by git itself, which says so in words that reach its client."""
    request.max_content_length = sys.maxsize  # None would be the app's own limit


@blueprint.get("/<app>.git/info/refs")
def advertise(app: str) -> Response:
    """The start of every exchange: which branches there are."""
    service = request.args.get("service", "")
    name = service.removeprefix("git-")
    if not service.startswith("git-") or name not in ssh_commands.SERVICES:
        raise InvalidInput("Only git clients of this century are served: use git 1.6.6 or newer.")
    head = _packet(f"# service={service}\n".encode()) + b"0000"
    if name == "upload-pack" and "version=2" in _protocol():
        head = b""
    options = ("--stateless-rpc", "--http-backend-info-refs")
    stack = contextlib.ExitStack()
    child = _child(stack, app, name, *options)
    with stack:
        done = subprocess.run(
            child.argv, env=child.env, stdin=subprocess.DEVNULL, capture_output=True
        )
    return Response(head + done.stdout, 200, content_type=f"application/x-{service}-advertisement")


@blueprint.post("/<app>.git/git-<any('receive-pack', 'upload-pack'):name>")
def exchange(app: str, name: str) -> Response:
    """The exchange itself."""
    expected = f"application/x-git-{name}-request"
    if request.content_type != expected:
        raise InvalidInput(f"A git client sends {expected}.")
    body = _inflated(request.stream) if _is_gzip() else _chunks(request.stream)
    stack = contextlib.ExitStack()
    child = _child(stack, app, name, "--stateless-rpc")
    return Response(
        _Exchange(child, body, stack),
        200,
        content_type=f"application/x-git-{name}-result",
        headers={"X-Accel-Buffering": "no"},
        direct_passthrough=True,
    )


def _child(stack: contextlib.ExitStack, app: str, name: str, *options: str) -> ssh_commands.Child:
    store: Store = current_app.extensions["shipway.store"]
    user_id = _user_id(store)
    context = ssh_commands.git_service(
        store, _receiver(store), user_id, name, app, _protocol(), *options
    )
    return stack.enter_context(context)


def _user_id(store: Store) -> int:
    """Who the token belongs to; by basic authentication, since that is what git asks people for."""
    given = request.authorization
    secret = (given.password or given.token or "") if given else ""
    with store.reading() as db:
        user = auth.by_token(db, secret, store.now(db)) if secret else None
        if user is None:
            raise NeedsToken
        return user.id


class NeedsToken(Unauthenticated):
    """Makes git ask for a user name and password."""

    def __init__(self) -> None:
        super().__init__(
            "A token is needed as the password (any user name): make one with shipway tokens:create."
        )


@blueprint.errorhandler(NeedsToken)
def ask_for_token(error: NeedsToken) -> Response:
    """401 with what makes git ask."""
    ask = {"WWW-Authenticate": 'Basic realm="Shipway: a token as password", charset="UTF-8"'}
    return Response(
        error.message + "\n", error.status, ask, content_type="text/plain; charset=utf-8"
    )


def _receiver(store: Store) -> Receiver:
    key = (os.getpid(), id(store))
    with _making:
        if key not in _receivers:
            _receivers[key] = Receiver(store, Repos(store.settings))
        return _receivers[key]


def _protocol() -> str:
    return request.headers.get("Git-Protocol", "")


def _packet(line: bytes) -> bytes:
    return b"%04x%s" % (len(line) + 4, line)


# -- the two streams ----------------------------------------------------------------------------


class _Exchange:
    """Git's answer as the response's body, while the request's body is still being read."""

    def __init__(
        self, child: ssh_commands.Child, body: Iterator[bytes], stack: contextlib.ExitStack
    ) -> None:
        self._stack = stack
        with contextlib.ExitStack() as on_error:
            on_error.callback(stack.close)
            self._git = subprocess.Popen(
                child.argv,
                env=child.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
            on_error.pop_all()
        assert self._git.stdin
        self._feeder = threading.Thread(target=_feed, args=[body, self._git.stdin], daemon=True)
        self._feeder.start()

    def __iter__(self) -> Iterator[bytes]:
        assert self._git.stdout
        while data := os.read(self._git.stdout.fileno(), CHUNK):
            yield data
        # A client that is still sending would miss an answer to a request it has not ended.
        self._feeder.join()

    def close(self) -> None:
        """End git, which the client has heard out or has hung up on. Called by the server in any case."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._git.poll() is None:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    if self._feeder.is_alive() or not self._ended():
                        os.killpg(self._git.pid, number)
                    self._git.wait(END_GRACE)
        assert self._git.stdout
        self._git.stdout.close()
        self._stack.close()

    def _ended(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._git.wait(0.2)
        return self._git.poll() is not None


def _feed(body: Iterator[bytes], target: IO[bytes]) -> None:
    """From the client to git; what git does not want any more is read and dropped."""
    wanted = True
    try:
        for data in body:
            if wanted:
                try:
                    target.write(data)
                except OSError:
                    wanted = False
    except (
        Exception
    ) as error:  # whatever the WSGI server raises when a client hangs up or sends nonsense
        log.debug("request body cut short: %s", error)  # git sees the end of its input, and says so
    finally:
        with contextlib.suppress(OSError):
            target.close()


def _chunks(stream: Any) -> Iterator[bytes]:
    while data := stream.read(CHUNK):
        yield data


def _is_gzip() -> bool:
    return request.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")


def _inflated(stream: Any) -> Iterator[bytes]:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: with a gzip header
    total = 0
    for data in _chunks(stream):
        while data:
            plain = inflater.decompress(data, CHUNK)
            data = inflater.unconsumed_tail
            total += len(plain)
            if total > MAX_INFLATED:
                raise InvalidInput("The compressed request is too large.")
            if plain:
                yield plain
