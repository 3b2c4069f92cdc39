"""Git and the platform's commands over SSH, on a port of our own: no system account, no shell, no sshd.

Who somebody is, is said by their key alone; the user name of the login is not looked at. A session runs one of three
things, each an argv list: `git-receive-pack`, `git-upload-pack`, or the command line in a process of its own.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import asyncssh
from sqlalchemy.exc import OperationalError

from shipway.platform import auth, ssh_commands
from shipway.platform.errors import ShipwayError
from shipway.platform.files import atomic_write
from shipway.platform.receiver import Receiver
from shipway.platform.repos import Repos
from shipway.platform.settings import Settings
from shipway.platform.store import Store

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
MAX_SESSIONS = 10  # open at once on one connection; OpenSSH's default
MAX_KEYS = 20  # that a client may try on one connection
LOGIN_TIMEOUT = 30.0
KEEPALIVE = 15.0  # seconds of silence before a client is asked whether it is there; three times
CHUNK = 64 << 10  # bytes
END_GRACE = 3.0  # seconds a process has after SIGTERM
STOP_GRACE = 8.0  # seconds that sessions have to end by themselves when the server is stopped


class SshServer:
    """The listening server and its sessions."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.receiver = Receiver(store, Repos(store.settings))
        self.connections = 0
        self.sessions: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self) -> None:
        """Begin to listen."""
        settings = self.store.settings
        self._acceptor = await asyncssh.listen(
            settings.listen,
            settings.ssh_port,
            server_host_keys=[host_key(settings)],
            server_factory=lambda: _Connection(self),
            server_version="Shipway",
            encoding=None,
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_kex=False,
            gss_auth=False,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            login_timeout=LOGIN_TIMEOUT,
            keepalive_interval=KEEPALIVE,
            reuse_address=True,
        )

    async def stop(self) -> None:
        """Take no more connections, wait a little for sessions, then end them; builds go on in the workers."""
        assert self._acceptor is not None
        self._acceptor.close()
        if self.sessions:
            await asyncio.wait(self.sessions, timeout=STOP_GRACE)
        for session in self.sessions:
            session.cancel()
        await asyncio.gather(*self.sessions, return_exceptions=True)
        self.receiver.server.close()

    def begin(self, run: Coroutine[Any, Any, None]) -> None:
        """Run a session."""
        task = asyncio.create_task(run)
        self.sessions.add(task)
        task.add_done_callback(self.sessions.discard)


class _Connection(asyncssh.SSHServer):
    """One client's connection, from its first key to its last session."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._keys_tried = 0
        self._sessions = 0
        self._user_id: int | None = None
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections += 1
        if self._server.connections > MAX_CONNECTIONS:
            conn.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "Too many connections: try later.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections -= 1

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether the key is somebody's. Asked for each key the client has, and once more for the one it signs with."""
        self._keys_tried += 1
        if self._keys_tried > MAX_KEYS and self._connection:
            self._connection.disconnect(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many keys were tried."
            )
            return False
        # Set anew each time: the signature that ends the login belongs to the key that was asked for last.
        self._user_id = await asyncio.to_thread(self._user_of, key.get_fingerprint())
        return self._user_id is not None

    def _user_of(self, fingerprint: str) -> int | None:
        with self._server.store.reading() as db:
            user = auth.by_key(db, fingerprint)
            return user.id if user else None

    def session_requested(self) -> "asyncssh.SSHServerProcess[bytes] | bool":
        if self._user_id is None or self._sessions >= MAX_SESSIONS:
            return False
        self._sessions += 1
        user_id = self._user_id
        return asyncssh.SSHServerProcess(
            lambda process: self._server.begin(self._run(process, user_id)), None, 3, False
        )

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]", user_id: int) -> None:
        try:
            await run_session(self._server, process, user_id)
        finally:
            self._sessions -= 1


async def run_session(
    server: SshServer, process: "asyncssh.SSHServerProcess[bytes]", user_id: int
) -> None:
    """Run what a session asks for, and end it with its exit code."""
    code = 1
    try:
        if process.subsystem is not None:
            raise ssh_commands.CommandRefused("There are no subsystems here, such as sftp.")
        child = ssh_commands.prepared(
            server.store, server.receiver, user_id, process.command, process.env
        )
        async with _in_thread(child) as started:
            code = await _run_child(process, started)
    except ShipwayError as error:
        _say(process, error.message)
        code = error.exit_code
    except OperationalError:
        _say(process, "The database does not answer: try again soon.")
    except asyncio.CancelledError:
        _say(process, "Shipway stops now. A build that was begun goes on: see shipway builds.")
    except Exception:  # a bug ends this session, and leaves its trace in our log
        log.exception("ssh session failed")
        _say(process, "Shipway made a mistake here; its log says more.")
    with contextlib.suppress(OSError, asyncssh.Error):
        process.exit(code)


async def _run_child(
    process: "asyncssh.SSHServerProcess[bytes]", wanted: ssh_commands.Child
) -> int:
    """Run a process with the client's streams; it is ended when the client goes away."""
    child = await asyncio.create_subprocess_exec(
        *wanted.argv,
        env=wanted.env,
        cwd="/",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
    telling = asyncio.gather(
        _tell(child.stdout, process.stdout), _tell(child.stderr, process.stderr)
    )
    gone = asyncio.create_task(process.channel.wait_closed())
    try:
        either: set[asyncio.Future[Any]] = {telling, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return await child.wait() if telling.done() else 1
    finally:
        for task in (feeding, telling, gone):
            task.cancel()
        await asyncio.gather(feeding, telling, gone, return_exceptions=True)
        await _end(child)


async def _feed(source: "asyncssh.SSHReader[bytes]", target: asyncio.StreamWriter) -> None:
    """From the client to the process, until either has enough."""
    with contextlib.suppress(
        OSError, asyncssh.Error, asyncssh.SignalReceived, asyncssh.BreakReceived
    ):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    target.close()


async def _tell(source: asyncio.StreamReader, target: "asyncssh.SSHWriter[bytes]") -> None:
    """From the process to the client, no faster than the client takes it."""
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()


async def _end(child: asyncio.subprocess.Process) -> None:
    """End a process and its children, if they have not ended by themselves: git cleans up on SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), END_GRACE)


@contextlib.asynccontextmanager
async def _in_thread(
    context: contextlib.AbstractContextManager[ssh_commands.Child],
) -> AsyncIterator[ssh_commands.Child]:
    """Enter and leave a context that waits for the database, without holding up the other sessions."""
    child = await asyncio.to_thread(context.__enter__)
    try:
        yield child
    finally:
        await asyncio.shield(asyncio.to_thread(context.__exit__, None, None, None))


def _say(process: "asyncssh.SSHServerProcess[bytes]", message: str) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        process.stderr.write(f" !     {message}\n".encode(errors="replace"))


def host_key(settings: Settings) -> asyncssh.SSHKey:
    """The server's own key in <data>/secrets, made on the first start: clients know the server by it."""
    path = settings.secrets / "ssh_host_ed25519_key"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = asyncssh.generate_private_key("ssh-ed25519", comment="shipway")
        atomic_write(path, fresh.export_private_key(), 0o600)
    return asyncssh.read_private_key(path)


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    server = SshServer(Store(settings))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    log.info("takes pushes on %s:%d", settings.listen, settings.ssh_port)
    await stopped.wait()
    await server.stop()
