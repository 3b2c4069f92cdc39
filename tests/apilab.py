"""The web process, Redis and SQLite for real; in the workers' place a thread that moves rows as they would."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import auth, builds, database, events, formation, redis_server, releases
from shipway.platform.errors import LeaseLost
from shipway.platform.models import App, Build, Host, Instance, Release, User
from shipway.platform.settings import Settings, load
from shipway.platform.states import BuildState, Desired, InstanceState, ReleaseState
from shipway.platform.store import Store, move, say
from shipway.platform.store import signal as tell
from support import clean_environ, free_port, scratch

UP, STARTING, STOPPED = InstanceState.UP, InstanceState.STARTING, InstanceState.STOPPED


@dataclass
class Lab:
    """A platform without containers."""

    folder: Path
    settings: Settings
    store: Store
    environ: dict[str, str]
    token: str = ""
    crash: str = ""  # instances of this process type crash instead of coming up
    hold: threading.Event = field(default_factory=threading.Event)  # set: nothing moves
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    # -- asking ---------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = None, raw: bytes = b""
    ) -> tuple[int, Any]:
        """One request to the API: status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.web_port, timeout=30)
        data = raw or (json.dumps(body).encode() if body is not None else None)
        secret = self.token if token is None else token
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        connection.request(method, f"/api/v1{path}", data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def ok(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The answer to a request that must succeed."""
        status, answer = self.call(method, path, body, token)
        assert status < 300, (status, answer)
        return answer

    def refused(
        self, method: str, path: str, body: Any = None, token: str | None = None
    ) -> tuple[int, str]:
        """Status and message of a request that must be refused."""
        status, answer = self.call(method, path, body, token)
        assert status >= 400, answer
        assert set(answer["error"]) == {"message", "kind"}
        return status, answer["error"]["message"]

    def cli(self, *args: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run `shipway ARGS`."""
        environ = {**self.environ, **more.pop("env", {})}
        done = subprocess.run(
            ["shipway", *args],
            env=environ,
            text=True,
            capture_output=True,
            cwd=more.pop("cwd", self.folder),
            timeout=60,
            **more,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check:
            assert done.returncode == 0, (args, done.stdout, done.stderr)
        return done

    # -- making ---------------------------------------------------------------------------------

    def user(self, name: str) -> str:
        """A new user's token."""
        with self.store.transaction() as db:
            row = auth.make_user(db, name, None, self.store.now(db))
            return auth.make_token(db, row, "test", self.store.now(db))

    def deployed(self, name: str, *, processes: dict[str, str] | None = None) -> None:
        """An app whose next release is built and live."""
        if not any(app["name"] == name for app in self.ok("GET", "/apps")):
            self.ok("POST", "/apps", {"name": name})
        self.processes_of[name] = processes or {"web": "serve", "worker": "work", "release": "task"}
        with self.store.transaction() as db:
            app = self.row(db, name)
            admin = db.scalars(select(User).where(User.is_admin)).first()
            assert admin
            commit = f"{app.id:02x}" * 20
            builds.queue(
                db,
                app,
                admin,
                self.store.now(db),
                commit=commit,
                branch="refs/heads/main",
                old_commit=None,
            )
        self.wait(lambda: self.ok("GET", f"/apps/{name}/builds")[0]["state"] == "succeeded")
        self.wait(lambda: self.ok("GET", f"/apps/{name}/releases")[0]["state"] == "live")

    processes_of: dict[str, dict[str, str]] = field(default_factory=dict)

    def row(self, db: Session, name: str) -> App:
        """The app's row."""
        return db.scalars(select(App).where(App.name == name)).one()

    def wait(self, check: Any) -> None:
        """Look until `check()` is true."""
        deadline = time.monotonic() + 20
        while not check():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    # -- processes ------------------------------------------------------------------------------

    def start_web(self) -> subprocess.Popen[bytes]:
        """Start `shipway web` and return once it answers."""
        process = subprocess.Popen(["shipway", "web"], env=self.environ, start_new_session=True)
        self.processes.append(process)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                assert self.call("GET", "/health", token="")[0] == 200
                return process
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
        """End a process that was started here, and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(20)

    # -- the workers ----------------------------------------------------------------------------

    def work(self) -> None:
        """Move rows until told to stop."""
        while not self._stop.wait(0.02):
            if self.hold.is_set():
                continue
            with contextlib.suppress(LeaseLost), self.store.transaction() as db:
                self._build(db)
                self._run_instances(db)
                self._deploy(db)

    def _build(self, db: Session) -> None:
        for build in db.scalars(select(Build).where(Build.state == BuildState.QUEUED)):
            move(db, build, BuildState.RUNNING)
            say(db, build.stream, "-----> Building on the test stack")
        for build in db.scalars(select(Build).where(Build.state == BuildState.RUNNING)):
            if build.cancel_requested:
                move(db, build, BuildState.CANCELLED, reason="Cancelled.")
                continue
            kinds = self.processes_of.get(build.app.name, {"web": "serve"})
            move(
                db,
                build,
                BuildState.SUCCEEDED,
                image="sha256:1",
                processes=kinds,
                phases={"build": 0.1},
            )
            releases.create(
                db,
                build.app,
                build.user,
                self.store.now(db),
                description=f"Deploy {build.commit[:8]}",
                image="sha256:1",
                processes=kinds,
                config=build.app.config,
                build=build,
                commit=build.commit,
            )

    def _run_instances(self, db: Session) -> None:
        for row in db.scalars(select(Instance).where(Instance.state != STOPPED)):
            if row.desired == Desired.STOPPED:
                move(db, row, STOPPED)
            elif row.state == InstanceState.PENDING:
                move(db, row, STARTING, started_at=self.store.now(db))
            elif row.state == STARTING and row.process_type == self.crash:
                move(db, row, InstanceState.CRASHED, reason="Process exited with status 3")
            elif row.state == STARTING:
                move(db, row, UP, up_at=self.store.now(db))
            else:
                continue
            tell(db, events.app_topic(row.app_id))

    def _deploy(self, db: Session) -> None:
        under_way = (ReleaseState.PENDING, ReleaseState.DEPLOYING)
        for release in db.scalars(select(Release).where(Release.state.in_(under_way))):
            now = self.store.now(db)
            if release.state == ReleaseState.PENDING:
                move(db, release, ReleaseState.DEPLOYING)
                say(db, release.stream, "-----> Launching...")
                formation.fill(db, release.app, release, now)
                continue
            states = {row.state for row in formation.running(db, release)}
            if release.end_wanted:
                formation.retire(db, release.app, formation.running(db, release))
                move(db, release, releases.ENDS[release.end_wanted], ended_at=now)
            elif InstanceState.CRASHED in states:
                say(db, release.stream, " !     Deploy failed: web.1: Process exited with status 3")
                formation.retire(db, release.app, formation.running(db, release))
                move(db, release, ReleaseState.FAILED, reason="web.1: Process exited with status 3")
            elif states <= {UP}:
                self._go_live(db, release, now)
            tell(db, events.app_topic(release.app_id), events.output_topic(release.stream))

    def _go_live(self, db: Session, release: Release, now: float) -> None:
        older = db.scalars(
            select(Release).where(
                Release.app_id == release.app_id, Release.state == ReleaseState.LIVE
            )
        )
        for row in older:
            formation.retire(db, release.app, formation.running(db, row))
            move(db, row, ReleaseState.RETIRED)
        release.app.release_id = release.id
        formation.adopt(db, release.app, release)
        move(db, release, ReleaseState.LIVE, ended_at=now)
        say(db, release.stream, f"       Released v{release.version}")

    def stop(self) -> None:
        """End everything."""
        self._stop.set()
        for process in self.processes:
            if process.poll() is None:
                self.end(process)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A started lab, gone at the end."""
    with scratch() as folder:
        (folder / "home").mkdir()
        values = {
            "SHIPWAY_DATA": str(folder / "data"),
            **{f"SHIPWAY_{name}_PORT": str(free_port()) for name in ("ROUTER", "WEB", "SSH")},
        }
        settings = load(values)
        for path in (settings.data, settings.run, settings.logs, settings.secrets):
            path.mkdir()
        environ = clean_environ(
            **values, HOME=str(folder / "home"), XDG_CONFIG_HOME="", GIT_CONFIG_NOSYSTEM="1"
        )
        redis = subprocess.Popen(
            redis_server.argv(settings), stdout=subprocess.DEVNULL, start_new_session=True
        )
        database.prepare(settings)
        store = Store(settings)
        auth.ensure_admin(store)
        found = Lab(folder, settings, store, environ, auth.local_token(store), processes=[redis])
        with store.transaction() as db:
            db.add(Host(name="local", alive_until=store.now(db) + 3600, memory={}))
        worker = threading.Thread(target=found.work, daemon=True)
        try:
            found.start_web()
            worker.start()
            yield found
        finally:
            found.stop()
            if worker.ident:
                worker.join(10)
            store.engine.dispose()
