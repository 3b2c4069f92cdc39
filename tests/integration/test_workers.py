"""Workers on real parts: redis-server, SQLite, git, containers. Only the router is a stand-in that says "done"."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from shipway.platform import applog, builds, database, events, formation, releases
from shipway.platform.models import App, Build, Formation, Host, Instance, Lease, Release, User
from shipway.platform.repos import Repos
from shipway.platform.settings import Settings
from shipway.platform.states import BUILD_ENDED, BuildState, Desired, InstanceState, ReleaseState
from shipway.platform.store import Store
from shipway.platform.store import signal as send_signal
from shipway.runtime.engine import Engine
from shipway.workers import retention
from shipway.workers.context import Context, engine_config
from shipway.workers.logtail import last_lines
from support import clean_environ, link_stack, network_names, scratch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

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
            return release is not None and release.state not in (
                ReleaseState.PENDING,
                ReleaseState.DEPLOYING,
            )

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


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with scratch() as data:
        link_stack(data / "runtime")
        made = Platform(data)
        try:
            made.start("redis", "worker", "host")
            made.wait_ready()
            yield made
        finally:
            made.end()
            for path in data.glob("*.err"):
                if text := path.read_text():
                    sys.stderr.write(f"--- {path.name}\n{text}")


@pytest.fixture
def app(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """An app of its own for each test, destroyed at the end."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:28].strip("-")
    app_id = platform.create(name)
    yield name
    with platform.store.transaction() as db:
        row = db.get(App, app_id)
        if row is not None:
            row.destroyed_at = platform.store.now(db)


def test_push_goes_live(platform: Platform, app: str) -> None:
    """A message of events.push_task is taken by the real worker: a commit is built, deployed, and answers."""
    release = platform.push(app, server("one"))
    assert release is not None
    assert release.state == ReleaseState.LIVE
    (instance,) = platform.instances(app, InstanceState.UP)
    assert get(instance) == "one web.1 v1"
    assert release.build_id
    lines = platform.said(release.build_id).splitlines()
    assert "-----> Launching..." in lines
    assert lines[-2:] == [
        "       Released v1",
        f"       http://{app}.localhost:8080/ deployed to Shipway",
    ]
    assert "shipway[web.1]: State changed from starting to up" in platform.log(app)


def test_second_release_replaces(platform: Platform, app: str) -> None:
    """The second release takes over once it is up, and the first one's instance is stopped after that."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    release = platform.push(app, server("two"))
    assert release is not None
    assert release.version == 2
    until(lambda: len(platform.instances(app, InstanceState.STOPPED)) == 1, 10)
    (second,) = platform.instances(app, InstanceState.UP)
    assert second.id != first.id
    assert get(second) == "two web.1 v2"
    assert "Process exited with status 0" in platform.log(app)


def test_failing_boot_leaves_the_old(platform: Platform, app: str) -> None:
    """A release whose process crashes at boot fails with its last lines; the one before goes on untouched."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    pid = platform.pid(first)
    release = platform.push(app, {"app.py": "print('no luck today')\nraise SystemExit(7)\n"})
    assert release is not None
    assert release.state == ReleaseState.FAILED
    assert release.build_id
    said = platform.said(release.build_id)
    assert "web.1: Process exited with status 7" in said
    assert "no luck today" in said
    assert platform.pid(first) == pid
    assert get(first) == "one web.1 v1"
    until(lambda: len(platform.instances(app, InstanceState.STOPPED)) == 1, 10)


def test_wrong_port_is_r10(platform: Platform, app: str) -> None:
    """A web process that listens elsewhere fails its deploy by R10, which says where it listens."""
    code = SERVER.replace('int(os.environ["PORT"])', "8000")
    release = platform.push(app, {"app.py": code, "Procfile": "web: python3 app.py\n"})
    assert release is not None
    assert release.state == ReleaseState.FAILED
    assert release.reason
    assert "Error R10 (Boot timeout)" in release.reason
    assert "port 8000 instead of $PORT (5000)" in release.reason
    assert release.build_id
    waits = r"^       Waiting for web\.1 to answer on port 5000\.\.\. [5-9] s$"
    assert re.search(waits, platform.said(release.build_id), re.MULTILINE)


def test_failed_build_makes_no_release(platform: Platform, app: str) -> None:
    """A build that fails says why and makes no release."""
    files = {**server("one"), "requirements.txt": "flask===no-such-version\n"}
    build_id = platform.queue(platform.app_id(app), platform.commit(app, files))
    assert platform.outcome(build_id) is None
    assert platform.build(build_id).state == BuildState.FAILED
    assert platform.build(build_id).reason


def test_scale_touches_the_difference(platform: Platform, app: str) -> None:
    """Scaling 1 -> 3 -> 1 leaves the first instance's process alone."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    pid = platform.pid(first)
    platform.scale(app, "web", 3)
    until(lambda: len(platform.instances(app, InstanceState.UP)) == 3, 10)
    assert sorted(get(i) for i in platform.instances(app)) == [f"one web.{n} v1" for n in (1, 2, 3)]
    platform.scale(app, "web", 1)
    until(lambda: len(platform.instances(app, InstanceState.STOPPED)) == 2, 15)
    (left,) = platform.instances(app, InstanceState.UP)
    assert (left.id, platform.pid(left)) == (first.id, pid)


def test_crash_starts_again(platform: Platform, app: str) -> None:
    """A crashed instance is started again at once the first times, then after a pause."""
    platform.push(app, server("one"))
    for crash in (1, 2, 3):
        (instance,) = platform.instances(app, InstanceState.UP)
        with contextlib.suppress(OSError):
            get(instance, "/crash")
        until(
            lambda crash=crash: [  # type: ignore[misc]
                i for i in platform.instances(app, InstanceState.UP) if i.restarts == crash
            ],
            10,
        )
    (instance,) = platform.instances(app, InstanceState.UP)
    with contextlib.suppress(OSError):
        get(instance, "/crash")
    until(lambda: platform.instances(app, InstanceState.CRASHED), 5)
    (instance,) = platform.instances(app)
    assert instance.reason == "Process exited with status 3"
    assert instance.ended_at
    assert instance.next_start_at - instance.ended_at == pytest.approx(10.0)
    # The log is told once the truth is in SQL.
    until(lambda: "Starts again in 10 seconds, after 4 crashes in a row" in platform.log(app), 5)


def test_worker_type_and_relay(platform: Platform, app: str) -> None:
    """A type without a port is up after staying alive; a command of several parts gets SIGTERM, too."""
    clock = "import signal,sys,time\nsignal.signal(15, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
    files = {
        **server("one"),
        "clock.py": clock + "print('tick', flush=True)\ntime.sleep(1000)\n",
        "Procfile": "web: python3 app.py\nclock: echo begin && python3 clock.py\n",
    }
    platform.push(app, files)
    platform.scale(app, "clock", 1)
    until(lambda: len(platform.instances(app, InstanceState.UP)) == 2, 10)
    (found,) = [i for i in platform.instances(app) if i.process_type == "clock"]
    platform.scale(app, "clock", 0)
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)
    path = applog.instance_file(platform.settings, app, found.name, found.id)
    assert last_lines(path, 5) == ("begin", "tick", "bye")


def test_a_script_that_ignores_sigterm_does_not_cost_its_server_the_end(
    platform: Platform, app: str
) -> None:
    """Where process 1 is a shell without a trap, what it has started is told to end, and may finish."""
    clock = "import signal,sys,time\nsignal.signal(15, lambda *_: (time.sleep(0.5), print('bye', flush=True), sys.exit(0)))\n"
    files = {
        **server("one"),
        "clock.py": clock + "print('tick', flush=True)\ntime.sleep(1000)\n",
        "Procfile": "web: python3 app.py\nclock: sh -c 'python3 clock.py; echo over'\n",
    }
    platform.push(app, files)
    platform.scale(app, "clock", 1)
    until(lambda: len(platform.instances(app, InstanceState.UP)) == 2, 10)
    (found,) = [i for i in platform.instances(app) if i.process_type == "clock"]
    platform.scale(app, "clock", 0)
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)
    path = applog.instance_file(platform.settings, app, found.name, found.id)
    assert last_lines(path, 5) == ("tick", "bye", "over")


def test_what_is_in_use_outlives_the_clean_up(platform: Platform, app: str) -> None:
    """Cleaning up packs the repository and keeps the commit and the image that the app runs from."""
    platform.push(app, server("one"))
    (before,) = platform.instances(app, InstanceState.UP)
    retention.clean(Context(platform.settings))
    with platform.store.reading() as db:
        release = db.get_one(Release, before.release_id)
        build = db.get_one(Build, release.build_id)
    assert platform.repos.has_commit(app, build.commit)
    assert platform.engine.images.get(release.image).digest == release.image
    assert [i.id for i in platform.instances(app, InstanceState.UP)] == [before.id]


def test_no_handler_ends_at_once(platform: Platform, app: str) -> None:
    """A process 1 without a handler for SIGTERM would never see it; it does not use up its grace."""
    code = server("one")["app.py"].replace("signal.signal(", "print(")
    platform.push(app, {"app.py": code, "Procfile": "web: python3 app.py\n"})
    began = time.monotonic()
    platform.scale(app, "web", 0)
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)
    assert time.monotonic() - began < platform.settings.stop_grace
    assert "R12" not in platform.log(app)


def test_deaf_process_is_r12(platform: Platform, app: str) -> None:
    """A process that does not end on SIGTERM is killed after its grace, and the log says R12."""
    code = server("one")["app.py"].replace("sys.exit(0)", "print('no')")
    platform.push(app, {"app.py": code, "Procfile": "web: python3 app.py\n"})
    platform.scale(app, "web", 0)
    until(lambda: platform.instances(app, InstanceState.STOPPED), 15)
    assert "Error R12 (Exit timeout)" in platform.log(app)


def test_host_killed_apps_serve(platform: Platform, app: str) -> None:
    """kill -9 of the host process, several times: the same process serves on, and what is wanted is done after it."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    pid = platform.pid(first)
    for _ in range(3):
        platform.kill("host")
        assert get(first) == "one web.1 v1"
        platform.start("host")
        time.sleep(0.3)
    platform.scale(app, "web", 2)
    until(lambda: len(platform.instances(app, InstanceState.UP)) == 2, 20)
    (again, _) = platform.instances(app, InstanceState.UP)
    assert (again.id, again.restarts, platform.pid(again)) == (first.id, 0, pid)


def test_host_sees_a_death_it_missed(platform: Platform, app: str) -> None:
    """An instance that dies while no host process is there is found and started again by the next one."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    platform.kill("host")
    os.kill(platform.pid(first), signal.SIGKILL)
    platform.start("host")
    until(lambda: [i for i in platform.instances(app, InstanceState.UP) if i.restarts == 1], 20)


def test_killed_worker_is_retried(platform: Platform, app: str) -> None:
    """kill -9 of the worker in the middle of a build: the next one builds it again with a new fence, once."""
    platform.push(app, server("one"))
    build_id = platform.queue(platform.app_id(app), platform.commit(app, server("two")))
    until(lambda: [c for c in platform.engine.list() if c.id.startswith("build-")], 10)
    platform.kill("worker")
    assert platform.build(build_id).state == BuildState.RUNNING
    platform.start("worker")
    release = platform.outcome(build_id)
    assert release is not None
    assert release.state == ReleaseState.LIVE
    assert platform.build(build_id).fence == 2
    assert "Builder lost, retrying (2/3)" in platform.said(build_id)
    with platform.store.reading() as db:
        made = list(db.scalars(select(Release).where(Release.build_id == build_id)))
    assert len(made) == 1
    assert not [c for c in platform.engine.list() if c.id.startswith("build-")]


def test_killed_in_the_middle_of_the_switch(platform: Platform, app: str) -> None:
    """kill -9 of the worker after the routes were asked for: another goes on, and nothing is started twice."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    platform.router_works = False
    try:
        build_id = platform.queue(platform.app_id(app), platform.commit(app, server("two")))
        until(lambda: platform.app(app).routes_wanted > platform.app(app).routes_done, 20)
        platform.kill("worker")
        assert get(first) == "one web.1 v1"
        platform.start("worker")
        until(lambda: (r := platform.release_of(build_id)) and r.fence == 2, 20)
        assert platform.instances(app, InstanceState.UP)[0].id == first.id
    finally:
        platform.router_works = True
    release = platform.outcome(build_id)
    assert release is not None
    assert release.state == ReleaseState.LIVE
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)
    assert len(platform.instances(app)) == 2
    assert platform.said(build_id).count("Released v2") == 1


def test_worker_told_to_end_gives_back(platform: Platform, app: str) -> None:
    """SIGTERM in the middle of a build gives it back, and the next worker's attempt is the first that counts."""
    build_id = platform.queue(platform.app_id(app), platform.commit(app, server("one")))
    until(lambda: platform.build(build_id).state == BuildState.RUNNING, 10)
    worker = platform.processes.pop("worker")
    worker.terminate()
    assert worker.wait(10) == 0
    platform.start("worker")
    release = platform.outcome(build_id)
    assert release is not None
    assert release.state == ReleaseState.LIVE
    assert platform.build(build_id).attempts == 1
    assert "Builder lost" not in platform.said(build_id)


def test_doubled_messages_and_workers(platform: Platform, app: str) -> None:
    """With two workers and every message sent four times, each build and each deploy is run once."""
    platform.start("worker2")
    try:
        build_id = platform.queue(platform.app_id(app), platform.commit(app, server("one")))
        for _ in range(3):
            platform.store.signals.push_task(builds.BUILDS, "shipway.build", [build_id])
        release = platform.outcome(build_id)
        assert release is not None
        for _ in range(3):
            platform.store.signals.push_task(releases.DEPLOYS, "shipway.deploy", [release.id])
        assert release.state == ReleaseState.LIVE
        assert (platform.build(build_id).fence, release.fence) == (1, 1)
        assert platform.said(build_id).count("Launching") == 1
        assert len(platform.instances(app)) == 1
    finally:
        platform.kill("worker2")


def test_redis_dead_still_builds(platform: Platform, app: str) -> None:
    """With Redis dead and its data gone a push is still built and deployed, and later ones are quick again."""
    platform.kill("redis")
    try:
        release = platform.push(app, server("one"), timeout=60)
        assert release is not None
        assert release.state == ReleaseState.LIVE
    finally:
        platform.start("redis")
    until(platform.store.signals.alive, 10)
    release = platform.push(app, server("two"))
    assert release is not None
    assert release.state == ReleaseState.LIVE


def test_cancel_ends_a_build(platform: Platform, app: str) -> None:
    """A build that is cancelled while it runs ends soon, says so and leaves no container."""
    build_id = platform.queue(platform.app_id(app), platform.commit(app, server("one")))
    until(lambda: [c for c in platform.engine.list() if c.id.startswith("build-")], 10)
    with platform.store.transaction() as db:
        builds.cancel(db, db.get_one(Build, build_id), 0.0, "Cancelled by ada.")
    until(lambda: platform.build(build_id).state in BUILD_ENDED, 5)
    assert platform.build(build_id).state == BuildState.CANCELLED
    assert not [c for c in platform.engine.list() if c.id.startswith("build-")]


def test_destroyed_app_is_gone(platform: Platform, app: str) -> None:
    """A destroyed app's instances, files, images and rows go; its name is free then."""
    platform.push(app, server("one"))
    with platform.store.transaction() as db:
        row = db.scalars(select(App).where(App.name == app)).one()
        row.destroyed_at = platform.store.now(db)
    app_id = row.id

    def gone() -> bool:
        with platform.store.reading() as db:
            return db.get(App, app_id) is None

    until(gone, 20)
    assert not platform.repos.path(app).exists()
    assert not (platform.settings.logs / app).exists()
    assert not [ref for ref in platform.engine.images.refs() if ref.startswith(f"app-{app_id}/")]
    assert not [c for c in platform.engine.list() if c.labels.get("shipway.app") == app]


def test_foreign_containers_are_left_alone(platform: Platform, app: str) -> None:
    """Rows that are gone (an empty or restored database) stop no container."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, InstanceState.UP)
    pid = platform.pid(first)
    with platform.store.transaction() as db:
        saved = {c.key: getattr(first, c.key) for c in Instance.__table__.columns}
        db.delete(db.get_one(Instance, first.id))
    platform.kill("host")
    platform.start("host")
    until(lambda: "belongs to no instance" in (platform.data / "host.err").read_text(), 20)
    assert platform.pid(first) == pid
    with platform.store.transaction() as db:
        db.add(Instance(**saved))
        formation.poke_hosts(db, [first.host_id])
    assert saved["desired"] == Desired.RUNNING
    shutil.copy(platform.data / "host.err", platform.data / "host.seen")
