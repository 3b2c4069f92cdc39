"""A receiver with all real parts but the workers: git, SSH, HTTP, Redis, SQLite, and a thread that builds nothing.

The thread moves builds and releases through their states as workers would, so that pushes can be tested in seconds.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

from sqlalchemy import select

from shipway.platform import auth, branches, database, events, releases
from shipway.platform.models import App, Build, Release, User
from shipway.platform.repos import Repos
from shipway.platform.settings import Settings
from shipway.platform.states import BuildState, ReleaseState
from shipway.platform.store import Store, move, say, signal
from support import clean_environ, free_port, scratch

PYTHON = sys.executable
SSH = "import sys; from shipway.platform import settings, ssh_server; ssh_server.main(settings.load())"


class Workers:
    """A stand-in for the workers: one thread that brings each build to the end that `outcome` names."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.outcome = "live"  # or build-fails, deploy-fails
        self.go = threading.Event()  # cleared: builds stay under way
        self.go.set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.go.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self.store.reading() as db:
                queued = select(Build.id).where(Build.state == BuildState.QUEUED)
                build_id = db.scalar(queued.order_by(Build.id).limit(1))
            if build_id is None:
                self._stop.wait(0.01)
            else:
                self._build(build_id)

    def _build(self, build_id: int) -> None:
        with self.store.transaction() as db:
            build = db.get_one(Build, build_id)
            if build.state != BuildState.QUEUED:
                return
            move(db, build, BuildState.RUNNING, owner="test", attempts=1)
            say(db, build.stream, "-----> Building on the test stack", f"       of {build.commit}")
        while not self.go.wait(0.05) and not self._stop.is_set():
            pass
        with self.store.transaction() as db:
            build = db.get_one(Build, build_id)
            if self.outcome == "build-fails":
                say(db, build.stream, " !     No Procfile was found.")
                move(db, build, BuildState.FAILED, reason="No Procfile was found.")
                return
            move(db, build, BuildState.SUCCEEDED, image="sha256:0", processes={"web": "x"})
            release = releases.create(
                db,
                build.app,
                build.user,
                self.store.now(db),
                description=f"Deploy {build.commit[:8]}",
                image="sha256:0",
                processes={"web": "x"},
                config=None,
                build=build,
                commit=build.commit,
            )
        self._deploy(release.id)

    def _deploy(self, release_id: int) -> None:
        with self.store.transaction() as db:
            release = db.get_one(Release, release_id)
            move(db, release, ReleaseState.DEPLOYING, owner="test")
            say(db, release.stream, "-----> Launching...")
        with self.store.transaction() as db:
            release = db.get_one(Release, release_id)
            if self.outcome == "deploy-fails":
                move(db, release, ReleaseState.FAILED, reason="web.1 crashed with status 3.")
                signal(db, events.app_topic(release.app_id))
                return
            for older in db.scalars(
                select(Release).where(
                    Release.app_id == release.app_id, Release.state == ReleaseState.LIVE
                )
            ):
                move(db, older, ReleaseState.RETIRED)
            move(db, release, ReleaseState.LIVE)
            release.app.release_id = release.id
            say(
                db,
                release.stream,
                f"       Released v{release.version}",
                f"       http://{release.app.name}.localhost/ deployed to Shipway",
            )


class Place:
    """A data folder with its database, Redis, SSH server and users; and a stock git client beside it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        values = {
            "data": str(folder / "d"),
            "ssh_port": free_port(),
            "web_port": free_port(),
            "router_port": free_port(),
            **settings,
        }
        self.settings = Settings(**{**values, "data": folder / "d"})  # type: ignore[arg-type]
        self.environ = clean_environ(
            **{f"SHIPWAY_{k.upper()}": str(v) for k, v in values.items()},
            HOME=str(folder),
            GIT_CONFIG_NOSYSTEM="1",
            GIT_TERMINAL_PROMPT="0",
        )
        self.settings.run.mkdir(parents=True)
        database.prepare(self.settings)
        self.children: list[subprocess.Popen[bytes]] = []
        self._start_redis()
        self.store = Store(self.settings)
        self.repos = Repos(self.settings)
        with self.store.transaction() as db:
            auth.make_user(db, "ada", None, 1.0)
            auth.make_user(db, "eve", None, 1.0)
        for name in ("ada", "eve"):
            self._add_key(name)
        self.workers = Workers(self.store)

    def _start_redis(self) -> None:
        socket = self.settings.run / "redis.sock"
        argv = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
        self.redis = self.spawn([*argv, "--dir", str(self.settings.run)])
        wait_for(socket.exists)

    def spawn(self, argv: list[str]) -> "subprocess.Popen[bytes]":
        """Start a process of this place; ended with it."""
        with (self.folder / "processes.log").open("ab") as log:
            child = subprocess.Popen(argv, env=self.environ, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def start_ssh(self) -> "subprocess.Popen[bytes]":
        """The SSH server as a process of its own; returns once it takes connections."""
        child = self.spawn([PYTHON, "-c", SSH])
        wait_for(lambda: connects(self.settings.ssh_port))
        return child

    def close(self) -> None:
        self.workers.stop()
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(15)
            if child.poll() is None:
                child.kill()
                child.wait()
        self.store.engine.dispose()

    # -- what the platform knows ---------------------------------------------------------------

    def _add_key(self, user: str) -> None:
        path = self.folder / user
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True)
        with self.store.transaction() as db:
            owner = db.scalars(select(User).where(User.name == user)).one()
            auth.add_key(db, owner, path.with_suffix(".pub").read_text(), user, now=1.0)

    def token(self, user: str) -> str:
        """A token of a user."""
        with self.store.transaction() as db:
            owner = db.scalars(select(User).where(User.name == user)).one()
            return auth.make_token(db, owner, "test", 1.0)

    def app(self, name: str) -> None:
        """An app of ada's."""
        with self.store.transaction() as db:
            owner = db.scalars(select(User).where(User.name == "ada")).one()
            db.add(App(name=name, owner_id=owner.id, created_at=1.0))

    def branch(self, app: str, branch: str = "main") -> str | None:
        """Where a branch stands on the platform."""
        path = self.repos.path(app)
        return self.repos.branch(app, f"refs/heads/{branch}") if path.exists() else None

    def builds(self, app: str) -> list[Build]:
        """The app's builds, in order."""
        with self.store.reading() as db:
            found = select(Build).join(App).where(App.name == app).order_by(Build.id)
            return list(db.scalars(found))

    def releases(self, app: str) -> list[Release]:
        """The app's releases, in order."""
        with self.store.reading() as db:
            found = select(Release).join(App).where(App.name == app).order_by(Release.version)
            return list(db.scalars(found))

    def reconcile(self) -> None:
        """What the workers' reconciler does about branches."""
        with self.store.reading() as db:
            behind = branches.behind(db, self.store.now(db))
        for build_id in behind:
            branches.settle(self.store, self.repos, build_id)

    # -- the client ----------------------------------------------------------------------------

    def ssh_argv(self, user: str = "ada") -> list[str]:
        """OpenSSH's client, with the key of a user."""
        return [
            *("ssh", "-F", "none", "-i", str(self.folder / user), "-o", "IdentitiesOnly=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes"),
        ]

    def ssh(self, *command: str, user: str = "ada") -> "subprocess.CompletedProcess[str]":
        """Run a command over SSH."""
        argv = [*self.ssh_argv(user), "-p", str(self.settings.ssh_port), "any@127.0.0.1", *command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)

    def git_environ(self, user: str = "ada") -> dict[str, str]:
        """A stock git client's environment."""
        clean = {k: v for k, v in self.environ.items() if not k.startswith("SHIPWAY_")}
        return {**clean, "GIT_SSH_COMMAND": " ".join(self.ssh_argv(user))}

    def git(self, work: Path, *args: str, user: str = "ada") -> "subprocess.CompletedProcess[str]":
        """Run git; stderr is part of stdout, as a person sees it."""
        return subprocess.run(
            ["git", *args],
            cwd=work,
            env=self.git_environ(user),
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )

    def url(self, app: str) -> str:
        """The app's address for git over SSH."""
        return f"ssh://any@127.0.0.1:{self.settings.ssh_port}/{app}"

    def work(self, app: str, url: str | None = None) -> Path:
        """A working copy with one commit on main, and the remote `shipway`; the app is made."""
        self.app(app)
        work = self.folder / f"work-{app}"
        work.mkdir()
        self.git(work, "init", "-q", "-b", "main")
        self.git(work, "remote", "add", "shipway", url or self.url(app))
        self.commit(work, "first")
        return work

    def commit(self, work: Path, text: str) -> str:
        """Commit a change; the commit's id."""
        (work / "app.py").write_text(text)
        self.git(work, "add", "-A")
        identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        done = self.git(work, *identity, "commit", "-q", "--allow-empty", "-m", text)
        assert done.returncode == 0, done.stdout
        return self.git(work, "rev-parse", "HEAD").stdout.strip()

    def push(self, work: Path, *args: str, user: str = "ada") -> "subprocess.CompletedProcess[str]":
        """`git push shipway main`, or other refs."""
        return self.git(work, "push", "shipway", *(args or ("main",)), user=user)

    def begin_push(self, work: Path, *args: str) -> "subprocess.Popen[str]":
        """A push that goes on in the background, in a process group of its own."""
        return subprocess.Popen(
            ["git", "push", "shipway", *(args or ("main",))],
            cwd=work,
            env=self.git_environ(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def hang_up(push: "subprocess.Popen[str]") -> None:
    """Kill the client of a push, ssh included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(push.pid, SIGKILL)
    push.communicate()


def connects(port: int) -> bool:
    """Whether somebody listens on a port of the loopback."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Return once `condition` holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


@contextlib.contextmanager
def place(**settings: object) -> Iterator[Place]:
    """A place of its own, gone at the end."""
    with scratch() as folder:
        found = Place(folder, **settings)
        try:
            yield found
        finally:
            found.close()
            shutil.rmtree(found.settings.data, ignore_errors=True)
