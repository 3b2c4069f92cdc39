"""A platform of real parts for tests of workers: redis-server, SQLite, git, containers.

Only the router is a stand-in that says "done".
"""

import contextlib
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from shipway.platform import applog, builds, database, events, formation, releases
from shipway.platform.models import App, Build, Formation, Host, Instance, Lease, Release, User
from shipway.platform.repos import Repos
from shipway.platform.settings import Settings
from shipway.platform.states import BUILD_ENDED, BuildState, InstanceState
from shipway.platform.store import Store
from shipway.platform.store import signal as send_signal
from shipway.runtime.engine import Engine
from shipway.workers.context import engine_config
from support import clean_environ, link_stack, network_names, scratch

SERVER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(3)
        body = f"{TEXT} {os.environ['DYNO']} {os.environ['SHIPWAY_RELEASE']}".encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


def server(text: str) -> dict[str, str]:
    """An app that answers with `text`, its instance's name and its release."""
    return {"app.py": f"TEXT = {text!r}\n{SERVER}", "Procfile": "web: python3 app.py\n"}


class Platform:
    """A data folder with redis, a worker and a host process; and a person's hands at it."""

    def __init__(self, data: Path, seed: str = "workers", **settings: Any) -> None:
        bridge, subnet = network_names(seed)
        self.settings = Settings(
            data=data, bridge=bridge, subnet=subnet, boot_timeout=10.0, stop_grace=5.0, **settings
        )
        self.data = data
        self.environ = clean_environ(**self.settings.environment())
        for folder in (self.settings.run, self.settings.secrets, self.settings.repos):
            folder.mkdir(parents=True)
        database.prepare(self.settings)
        self.store = Store(self.settings)
        self.repos = Repos(self.settings)
        self.engine = Engine(engine_config(self.settings))
        with self.store.transaction() as db:
            db.add(User(name="ada", is_admin=True, created_at=0.0))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self.router_works = True
        threading.Thread(target=self._route, daemon=True).start()

    # -- processes --------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start `redis`, `worker`, `host` or others made from these names (worker2)."""
        for name in names:
            if name == "redis":
                argv = [
                    *("redis-server", "--port", "0", "--save", "", "--dir", str(self.data)),
                    *("--unixsocket", str(self.settings.run / "redis.sock")),
                ]
            else:
                argv = [sys.executable, "-m", "shipway.workers.main", name.rstrip("23")]
            self.processes[name] = subprocess.Popen(
                argv,
                env=self.environ,
                stdout=subprocess.DEVNULL,
                stderr=(self.data / f"{name}.err").open("ab"),
            )

    def kill(self, name: str) -> None:
        """kill -9 and reap."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def wait_ready(self) -> None:
        def ready() -> bool:
            with self.store.reading() as db:
                now = self.store.now(db)
                host, duty = db.scalar(select(Host)), db.get(Lease, "reconciler")
                return bool(host and host.alive_until > now and duty and duty.until > now)

        until(ready, 30)

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
        self._over.set()
        for container in self.engine.list():
            self.engine.remove(container.id)
        with contextlib.suppress(Exception):
            self.engine.teardown()

    def _route(self) -> None:
        """The router's stand-in: says that it has done what it was asked for."""
        while not self._over.is_set():
            with contextlib.suppress(Exception), self.store.signals.listen(events.ROUTES) as heard:
                while not self._over.is_set():
                    self._routes_done()
                    heard.wait(0.1)

    def _routes_done(self) -> None:
        owed = select(App).where(App.routes_done < App.routes_wanted)
        with self.store.reading() as db:
            if not self.router_works or not list(db.scalars(owed)):
                return
        with self.store.transaction() as db:
            for app in db.scalars(owed):
                app.routes_done = app.routes_wanted
                send_signal(db, events.ROUTED, events.app_topic(app.id))

    # -- what people do ---------------------------------------------------------------------

    def create(self, name: str) -> int:
        with self.store.transaction() as db:
            app = App(name=name, owner_id=1, created_at=self.store.now(db))
            db.add(app)
            db.flush()
        self.repos.ensure(name, app.id)
        return app.id

    def commit(self, name: str, files: dict[str, str]) -> str:
        """Put a commit of these files into the app's repository; its id."""
        folder = self.data / "src" / name
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in {"requirements.txt": "", **files}.items():
            (folder / path).write_text(text)

        def git(*args: str) -> str:
            config = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
            argv = ["git", "-C", str(folder), *config, *args]
            return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

        git("init", "--quiet", "--initial-branch=main")
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--message=change")
        git("push", "--quiet", "--force", str(self.repos.path(name)), "HEAD:refs/heads/incoming")
        return git("rev-parse", "HEAD")

    def app_id(self, name: str) -> int:
        return self.app(name).id

    def app(self, name: str) -> App:
        with self.store.reading() as db:
            return db.scalars(select(App).where(App.name == name)).one()

    def queue(self, app_id: int, commit: str) -> int:
        with self.store.transaction() as db:
            build = builds.queue(
                db,
                db.get_one(App, app_id),
                db.get_one(User, 1),
                self.store.now(db),
                commit=commit,
                branch="refs/heads/main",
                old_commit=None,
            )
        return build.id

    def push(self, name: str, files: dict[str, str], timeout: float = 60) -> Release | None:
        """Commit, build, deploy; the release once it has come to its end, None if the build failed."""
        return self.outcome(self.queue(self.app_id(name), self.commit(name, files)), timeout)

    def outcome(self, build_id: int, timeout: float = 60) -> Release | None:
        def ended() -> bool:
            build, release = self.build(build_id), self.release_of(build_id)
            if build.state != BuildState.SUCCEEDED:
                return build.state in BUILD_ENDED
            return release is not None and release.state not in releases.UNFINISHED

        until(ended, timeout)
        if self.build(build_id).state == BuildState.FAILED:
            sys.stderr.write(self.said(build_id))  # shown if the test fails
        return self.release_of(build_id)

    def scale(self, name: str, kind: str, quantity: int) -> None:
        with self.store.transaction() as db:
            app = db.scalars(select(App).where(App.name == name)).one()
            row = db.scalar(
                select(Formation).where(Formation.app_id == app.id, Formation.process_type == kind)
            )
            if row is None:
                row = Formation(app_id=app.id, process_type=kind, quantity=quantity)
                db.add(row)
            row.quantity = quantity
            db.flush()
            release = releases.current(db, app)
            assert release
            formation.fill(db, app, release, self.store.now(db))

    # -- what there is ----------------------------------------------------------------------

    def build(self, build_id: int) -> Build:
        with self.store.reading() as db:
            return db.get_one(Build, build_id)

    def release_of(self, build_id: int) -> Release | None:
        with self.store.reading() as db:
            return db.scalar(select(Release).where(Release.build_id == build_id))

    def instances(self, name: str, *states: InstanceState) -> list[Instance]:
        with self.store.reading() as db:
            query = select(Instance).join(App, App.id == Instance.app_id).where(App.name == name)
            found = list(db.scalars(query.order_by(Instance.id)))
        return [i for i in found if not states or i.state in states]

    def said(self, build_id: int) -> str:
        return "".join(o.text for o in self.store.output_after(f"build:{build_id}", 0))

    def log(self, name: str) -> str:
        return (applog.folder(self.settings, name) / "platform.log").read_text()

    def pid(self, instance: Instance) -> int:
        return self.engine.get(instance.container).pid


def until(true: Callable[[], object], timeout: float) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


def get(instance: Instance, path: str = "/") -> str:
    """What an instance answers."""
    with urllib.request.urlopen(f"http://{instance.address}:{instance.port}{path}", timeout=5) as r:
        return str(r.read().decode())


@contextlib.contextmanager
def open_platform(seed: str) -> Iterator[Platform]:
    """A platform that takes work, in a folder of its own; at its end what its processes complained of is shown."""
    with scratch() as data:
        link_stack(data / "runtime")
        made = Platform(data, seed)
        try:
            made.start("redis", "worker", "host")
            made.wait_ready()
            yield made
        finally:
            made.end()
            for path in data.glob("*.err"):
                if text := path.read_text():
                    sys.stderr.write(f"--- {path.name}\n{text}")


@contextlib.contextmanager
def new_app(platform: Platform, test: str) -> Iterator[str]:
    """An app named after a test, destroyed at the end."""
    name = test.removeprefix("test_").replace("_", "-")[:28].strip("-")
    app_id = platform.create(name)
    yield name
    with platform.store.transaction() as db:
        row = db.get(App, app_id)
        if row is not None:
            row.destroyed_at = platform.store.now(db)
