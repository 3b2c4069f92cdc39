"""A dashboard with all real parts but workers: Redis, SQLite, log files, gunicorn; apps are seeded as rows and files."""

import contextlib
import hashlib
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from shipway.platform import applog, auth, database, events, formation
from shipway.platform.models import App, Build, Formation, Host, Instance, Output, Release, User
from shipway.platform.redis_server import argv as redis_argv
from shipway.platform.settings import Settings
from shipway.platform.states import BuildState, Desired, InstanceState, ReleaseState
from shipway.platform.store import Store, move, signal
from shipway.platform.vault import Vault
from support import clean_environ, free_port, scratch

PASSWORD = "correct horse battery"
SERVE = "from shipway.platform import settings, web_server; web_server.main(settings.load())"


class Dashboard:
    """One data folder with Redis, a database and what `seed` puts into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = {
            "data": str(folder),
            "web_port": str(free_port()),
            "router_port": str(free_port()),
            "ssh_port": str(free_port()),
        }
        self.settings = Settings(
            data=folder,
            web_port=int(self.values["web_port"]),
            router_port=int(self.values["router_port"]),
            ssh_port=int(self.values["ssh_port"]),
        )
        self.settings.run.mkdir()
        database.prepare(self.settings)
        self.store = Store(self.settings)
        self.url = self.settings.dashboard
        with self.store.transaction() as db:
            now = self.store.now(db)
            admin = auth.make_user(db, "admin", PASSWORD, now, is_admin=True)
            self.admin = admin.id
            self.ada = auth.make_user(db, "ada", PASSWORD, now).id
            db.add(Host(name="local", alive_until=now + 3600, memory={}))

    def app(
        self, name: str, *, owner: int | None = None, config: dict[str, str] | None = None
    ) -> int:
        """Add an app; its id."""
        with self.store.transaction() as db:
            app = App(name=name, owner_id=owner or self.admin, created_at=self.store.now(db))
            db.add(app)
            db.flush()
            if config:
                app.config = Vault(self.settings).seal(app.id, config)
            applog.folder(self.settings, name)
            return app.id

    def release(
        self,
        name: str,
        *,
        processes: dict[str, str] | None = None,
        quantities: dict[str, int] | None = None,
        age: float = 0.0,
        state: InstanceState = InstanceState.UP,
        memory: int = 44 << 20,
        took: float = 4.2,
        user: int | None = None,
    ) -> int:
        """Add a build and its live release with running instances; its version."""
        with self.store.transaction() as db:
            app = db.scalars(select(App).where(App.name == name)).one()
            maker = db.get_one(User, user or self.admin)
            at = self.store.now(db) - age
            commit = hashlib.sha1(f"{name}{age}".encode()).hexdigest()
            build = Build(
                app_id=app.id,
                user_id=maker.id,
                commit=commit,
                branch="refs/heads/main",
                state=BuildState.SUCCEEDED,
                created_at=at - took,
                started_at=at - took,
                ended_at=at,
                phases={"fetch": 0.2, "detect": 0.3, "build": took * 0.7, "export": took * 0.2},
                ref_moved=True,
            )
            db.add(build)
            db.flush()
            db.add(Output(stream=build.stream, text=BUILD_OUTPUT))
            for kind, quantity in (quantities or {}).items():
                found = db.scalar(
                    select(Formation).where(
                        Formation.app_id == app.id, Formation.process_type == kind
                    )
                )
                if found:
                    found.quantity = quantity
                else:
                    db.add(Formation(app_id=app.id, process_type=kind, quantity=quantity))
            if app.release_id:
                old = db.get_one(Release, app.release_id)
                move(db, old, ReleaseState.RETIRED, ended_at=at)
                formation.retire(db, app, formation.running(db, old))
                for gone in db.scalars(select(Instance).where(Instance.release_id == old.id)):
                    gone.state = InstanceState.STOPPED
            release = Release(
                app_id=app.id,
                version=len(list(db.scalars(select(Release.id).where(Release.app_id == app.id))))
                + 1,
                build_id=build.id,
                user_id=maker.id,
                description=f"Deploy {commit[:8]}",
                commit=commit,
                image="sha256:0",
                processes=processes
                or {"web": "gunicorn --workers 2 app:app", "worker": "python worker.py"},
                state=ReleaseState.LIVE,
                created_at=at,
            )
            db.add(release)
            db.flush()
            app.release_id, app.deploy_branch = release.id, "main"
            formation.fill(db, app, release, at)
            host = db.scalars(select(Host)).one()
            memories = dict(host.memory)
            for one in formation.running(db, release):
                one.state, one.started_at, one.up_at = state, at, at
                if state == InstanceState.CRASHED:
                    one.reason, one.restarts = "The process exited with status 1.", 3
                memories[str(one.id)] = memory + one.number * (3 << 20)
            host.memory = memories
            return release.version

    def build(self, name: str, state: BuildState = BuildState.RUNNING, **values: Any) -> int:
        """Add a build under way; its id."""
        with self.store.transaction() as db:
            app = db.scalars(select(App).where(App.name == name)).one()
            now = self.store.now(db)
            row = Build(
                app_id=app.id,
                user_id=self.admin,
                commit="c0ffee1" + "0" * 33,
                branch="refs/heads/main",
                state=state,
                created_at=now - 3,
                started_at=now - 2,
                **values,
            )
            db.add(row)
            db.flush()
            signal(db, events.app_topic(app.id))
            return row.id

    def say(self, build_id: int, text: str) -> None:
        """Add to a build's output."""
        with self.store.transaction() as db:
            db.add(Output(stream=f"build:{build_id}", text=text))
            signal(db, events.output_topic(f"build:{build_id}"))

    def log(
        self, name: str, process: str, number: int, *lines: str, at: float | None = None
    ) -> None:
        """Append lines to an instance's log, in the form its monitor writes."""
        path = applog.instance_file(self.settings, name, process, number)
        stamp = datetime.fromtimestamp(at or time.time(), UTC).isoformat(timespec="microseconds")
        text = "".join(f"{stamp[:26]}000+00:00 stdout F {line}\n" for line in lines)
        with path.open("a") as file:
            file.write(text)

    # -- stand-ins -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        """A stand-in for the worker host: instances that shall run come up, those that shall stop stop."""
        end = threading.Event()
        thread = threading.Thread(target=self._converge, args=[end])
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _converge(self, end: threading.Event) -> None:
        with self.store.signals.listen(events.host_topic("local")) as listener:
            while not end.is_set():
                self._step()
                listener.wait(0.2)

    def _step(self) -> None:
        with self.store.transaction() as db:
            now = self.store.now(db)
            host = db.scalars(select(Host)).one()
            memories = dict(host.memory)
            for one in db.scalars(select(Instance).where(Instance.state != InstanceState.STOPPED)):
                process = f"shipway[{one.name}]"
                if one.desired == Desired.STOPPED:
                    one.state = InstanceState.STOPPED
                    memories.pop(str(one.id), None)
                    applog.append(
                        self.settings, one.app.name, process, "State changed from up to stopped"
                    )
                elif one.state == InstanceState.PENDING:
                    one.state, one.started_at, one.up_at = InstanceState.UP, now, now
                    memories[str(one.id)] = (42 << 20) + one.number * (2 << 20)
                    text = "State changed from starting to up"
                    applog.append(self.settings, one.app.name, process, text)
                else:
                    continue
                signal(db, events.app_topic(one.app_id))
            host.memory = memories

    @contextlib.contextmanager
    def web(self) -> Iterator[str]:
        """The web process; its URL, once it answers."""
        environ = clean_environ(**{f"SHIPWAY_{k.upper()}": v for k, v in self.values.items()})
        log = (self.folder / "web.log").open("wb")
        child = subprocess.Popen([sys.executable, "-c", SERVE], env=environ, stdout=log, stderr=log)
        try:
            _until_answers(self.settings.web_port, child)
            yield self.url
        finally:
            child.terminate()
            child.wait(20)
            log.close()


@contextlib.contextmanager
def dashboard() -> Iterator[Dashboard]:
    """A seeded data folder with its Redis, gone at the end."""
    with scratch() as folder:
        found = Dashboard(folder)
        child = subprocess.Popen(redis_argv(found.settings), stdout=subprocess.DEVNULL)
        try:
            while not found.store.signals.alive():
                time.sleep(0.02)
            yield found
        finally:
            child.terminate()
            child.wait()
            found.store.engine.dispose()


def _until_answers(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/login")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise AssertionError("The web process did not come up.")


BUILD_OUTPUT = """\
-----> Building on the Debian 13 stack
-----> Determining which buildpack to use for this app
-----> Python app detected
-----> Using Python 3.13
-----> Installing dependencies using 'uv pip install -r requirements.txt'
       Resolved 8 packages in 61ms
       Installed 8 packages in 14ms
       \x1b[32m+ flask==3.1.3\x1b[0m
       \x1b[32m+ gunicorn==27.0.1\x1b[0m
-----> Saving cache
-----> Discovering process types
       Procfile declares types -> web, worker
-----> Compressing...
       Done: 49.1M
-----> Launching...
       Released v1
"""
