"""The router's controller as a process of its own, on a real database, Redis and HAProxy."""

import contextlib
import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from shipway.platform import database, events, formation, redis_server
from shipway.platform.models import App, Domain, Host, Instance, Release, User
from shipway.platform.router.controller import config
from shipway.platform.router.haproxy_worker import find
from shipway.platform.settings import Settings, load
from shipway.platform.states import Desired, InstanceState, ReleaseState
from shipway.platform.store import Store
from shipway.platform.store import signal as tell
from support import clean_environ, free_port, scratch
from upstreams import Steady, Upstream, echoes, get, websocket

PROGRAM = (
    "from shipway.platform import settings\n"
    "from shipway.platform.router import controller\n"
    "controller.main(settings.current())"
)


class Lab:
    """A database, a Redis and a controller, and the moves that deploys and hosts make in SQL."""

    def __init__(self, folder: Path) -> None:
        self.environ = {
            "SHIPWAY_DATA": str(folder / "d"),
            "SHIPWAY_ROUTER_PORT": str(free_port()),
            "SHIPWAY_WEB_PORT": str(free_port()),
            "SHIPWAY_SSH_PORT": str(free_port()),
        }
        self.settings: Settings = load(self.environ)
        self.port = self.settings.router_port
        database.prepare(self.settings)
        self.settings.run.mkdir(parents=True)
        self.store = Store(self.settings)
        self.redis = subprocess.Popen(redis_server.argv(self.settings))
        self.controller: subprocess.Popen[bytes] | None = None
        self.apps: dict[str, int] = {}
        with self.store.transaction() as db:
            user = User(name="u", is_admin=True, created_at=0.0)
            host = Host(name="local")
            db.add_all([user, host])
            db.flush()
            self._user, self._host = user.id, host.id

    def start(self) -> None:
        """Start the controller."""
        self.controller = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=clean_environ(**self.environ)
        )

    def kill(self) -> None:
        """Kill the controller."""
        assert self.controller
        self.controller.kill()
        self.controller.wait()

    def end(self) -> None:
        """End all there is."""
        if self.controller and self.controller.poll() is None:
            self.controller.terminate()
            self.controller.wait(20)
        for worker in find(config(self.settings)):
            worker.kill()
            worker.close()
        self.redis.terminate()
        self.redis.wait()
        self.store.engine.dispose()

    # -- what others do in SQL -------------------------------------------------------------------

    def app(self, name: str, *upstreams: Upstream, released: bool = True) -> None:
        """Create an app whose first release has these instances."""
        with self.store.transaction() as db:
            app = App(name=name, owner_id=self._user, created_at=0.0)
            db.add(app)
            db.flush()
            self.apps[name] = app.id
            formation.routes_changed(db, app)
        if released:
            self.release(name, *upstreams)

    def release(self, name: str, *upstreams: Upstream) -> int:
        """Switch the app to a new release with these instances; the generation of its routes."""
        with self.store.transaction() as db:
            app = db.get_one(App, self.apps[name])
            versions = db.scalars(select(Release.version).where(Release.app_id == app.id)).all()
            release = Release(
                app_id=app.id,
                version=max(versions, default=0) + 1,
                user_id=self._user,
                description="d",
                image="i",
                processes={"web": "x"},
                state=ReleaseState.LIVE,
                created_at=0.0,
            )
            db.add(release)
            db.flush()
            for number, upstream in enumerate(upstreams, 1):
                db.add(self._instance(app, release, number, upstream))
            app.release_id = release.id
            formation.routes_changed(db, app)
            return app.routes_wanted

    def _instance(self, app: App, release: Release, number: int, upstream: Upstream) -> Instance:
        return Instance(
            app_id=app.id,
            release_id=release.id,
            host_id=self._host,
            process_type="web",
            number=number,
            state=InstanceState.UP,
            address="127.0.0.1",
            port=upstream.server_address[1],
            created_at=0.0,
        )

    def change(self, name: str, act: Callable[..., None], *, quietly: bool = False) -> None:
        """Change the app's rows in one transaction, and want its routes changed."""
        with self.store.transaction() as db:
            app = db.get_one(App, self.apps[name])
            act(db, app)
            formation.routes_changed(db, app)
            if quietly:
                db.info.pop("topics")

    def owed(self) -> int:
        """How many apps the router owes a change."""
        with self.store.reading() as db:
            return len(db.scalars(select(App.id).where(App.routes_done < App.routes_wanted)).all())

    def await_routed(self, seconds: float = 15.0) -> None:
        """Return once the router owes nothing."""
        await_that(lambda: self.owed() == 0, seconds)

    def status(self, host: str) -> int:
        """The status a host answers, 0 while nobody listens."""
        try:
            return get(self.port, host)[0]
        except OSError:
            return 0

    def haproxy(self) -> int:
        """The process id of HAProxy; 0 while there is none that answers."""
        for path in sorted(config(self.settings).run.glob("*.sock"), reverse=True):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as door:
                door.connect(str(path))
                return int(struct.unpack("3i", door.getsockopt(1, socket.SO_PEERCRED, 12))[0])
        return 0

    def log(self, app: str) -> str:
        """The app's request log."""
        path = self.settings.logs / app / "router.log"
        return path.read_text() if path.exists() else ""


def await_that(what: Callable[[], object], seconds: float = 15.0) -> None:
    """Return once `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.005)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab whose controller is not started yet."""
    with scratch() as folder:
        found = Lab(folder)
        try:
            yield found
        finally:
            found.end()


@pytest.fixture
def upstream() -> Iterator[Callable[[str], Upstream]]:
    """Makes upstreams that end with the test."""
    made: list[Upstream] = []

    def make(name: str) -> Upstream:
        made.append(Upstream(name))
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(OSError):
            one.end()


def test_from_sql_to_routes(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """What SQL says is what answers: domains, states of instances, an app that is taken down; all acknowledged."""
    a, b = upstream("a"), upstream("b")
    lab.app("one", a)
    lab.app("two", b)
    lab.app("new", released=False)
    lab.start()
    lab.await_routed()
    assert get(lab.port, "one.localhost")[2] == "a"
    assert get(lab.port, "two.localhost")[2] == "b"
    assert "deployed" in get(lab.port, "new.localhost")[2]

    lab.change("one", lambda db, app: db.add(Domain(app_id=app.id, name="www.example.com")))
    lab.await_routed()
    assert get(lab.port, "WWW.example.com.")[2] == "a"

    def maintain(_db, app):
        app.routing = {"maintenance": "on", "maintenance-page": "<p>soon", "force-https": "on"}

    lab.change("two", maintain)
    lab.await_routed()
    assert get(lab.port, "two.localhost")[0] == 308
    lab.change("two", lambda _db, app: setattr(app, "routing", {"rate-limit": "broken"}))
    lab.change("one", lambda _db, app: setattr(app, "routing", {"sticky-sessions": "on"}))
    lab.await_routed()
    assert "set-cookie" in get(lab.port, "one.localhost")[1]  # another app's bad row is no matter
    lab.change("two", lambda _db, app: setattr(app, "routing", {"maintenance": "on"}))
    lab.await_routed()
    assert "worked on" in get(lab.port, "two.localhost")[2]
    lab.change("two", lambda _db, app: setattr(app, "routing", None))
    lab.await_routed()
    assert get(lab.port, "two.localhost")[2] == "b"

    def crash(db, app):
        db.scalars(
            select(Instance).where(Instance.app_id == app.id)
        ).one().state = InstanceState.CRASHED

    lab.change("one", crash)
    lab.await_routed()
    assert "crashed" in get(lab.port, "www.example.com")[2]

    def scale_to_none(db, app):
        row = db.scalars(select(Instance).where(Instance.app_id == app.id)).one()
        row.desired = Desired.STOPPED

    lab.change("two", scale_to_none)
    lab.await_routed()
    assert "no running web" in get(lab.port, "two.localhost")[2]

    def destroy(db, app):
        app.destroyed_at = 1.0

    lab.change("one", destroy)
    lab.await_routed()
    assert get(lab.port, "one.localhost")[0] == 404
    assert get(lab.port, "www.example.com")[0] == 404


def test_deploys_under_load(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """Twenty releases, each old one ended as soon as the router has acknowledged: no request fails, each switch takes milliseconds."""
    current = upstream("u0")
    lab.app("one", current)
    lab.start()
    lab.await_routed()
    took = []
    with (
        Steady(lab.port, "one.localhost", 2) as kept,
        Steady(lab.port, "one.localhost", 1, keep=False) as fresh,
    ):
        for number in range(1, 21):
            following = upstream(f"u{number}")
            lab.release("one", following)
            begun = time.perf_counter()
            while get(lab.port, "one.localhost")[2] != following.name:
                assert time.perf_counter() - begun < 10
            took.append(time.perf_counter() - begun)
            lab.await_routed()
            current.slow.set()
            await_that(lambda old=current: not old.busy)
            current.end()
            current = following
    assert (kept.failures, fresh.failures) == ({}, {})
    took.sort()
    print(f"commit to first answer: p50 {took[10] * 1e3:.1f} ms, worst {took[-1] * 1e3:.1f} ms")
    assert took[10] < 0.2


def test_signals_may_be_lost(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """A change nobody signalled is seen within seconds; with Redis killed as well."""
    a, b = upstream("a"), upstream("b")
    lab.app("one", a)
    lab.start()
    lab.await_routed()
    lab.change("one", lambda db, app: db.add(Domain(app_id=app.id, name="a.example")), quietly=True)
    lab.await_routed(12)
    assert get(lab.port, "a.example")[2] == "a"
    lab.redis.kill()
    lab.redis.wait()
    lab.release("one", b)
    lab.await_routed(12)
    assert get(lab.port, "one.localhost")[2] == "b"


def test_controller_killed(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """Killed: apps serve on and WebSockets live. Back: it adopts HAProxy and does what came meanwhile, each log line once."""
    a, b = upstream("a"), upstream("b")
    lab.app("one", a)
    lab.app("two", a)
    lab.start()
    lab.await_routed()
    before = lab.haproxy()
    with Steady(lab.port, "one.localhost") as load, websocket(lab.port, "two.localhost") as ws:
        for number in range(6):
            time.sleep(0.1 + 0.03 * number)
            lab.kill()
            lab.release("one", b if number % 2 else a)
            lab.change(
                "two", lambda db, app, n=number: db.add(Domain(app_id=app.id, name=f"n{n}.example"))
            )
            time.sleep(0.05)
            assert echoes(ws)
            lab.start()
            lab.await_routed()
            assert get(lab.port, f"n{number}.example")[0] == 200
            assert lab.haproxy() == before
    assert load.failures == {}
    asked = sum(load.answers.values())

    def ids() -> list[str]:
        return re.findall(r"request_id=(\S+)", lab.log("one"))

    await_that(lambda: len(ids()) >= asked)
    assert len(ids()) == asked
    assert max(Counter(ids()).values()) == 1


def test_haproxy_killed(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """HAProxy killed: back within a second with the routes of SQL; no connection is refused, nor a log line lost."""
    lab.app("one", upstream("a"))
    lab.start()
    lab.await_routed()
    for number in range(3):
        pid = lab.haproxy()
        for _ in range(5):
            get(lab.port, "one.localhost", f"/before{number}")
        # A request's line is written after its answer.
        await_that(lambda n=number: config(lab.settings).log.read_text().count(f"/before{n}") == 5)
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionResetError, http.client.RemoteDisconnected):
            get(lab.port, "one.localhost")  # accepted by the dying process, perhaps
        assert get(lab.port, "one.localhost")[2] == "a"
        assert time.monotonic() - begun < 1.0
        assert lab.haproxy() != pid
    await_that(lambda: lab.log("one").count("/before") == 15)


def test_both_killed(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """Controller and HAProxy both killed, the routes changed meanwhile: the next start has exactly SQL's."""
    a, b = upstream("a"), upstream("b")
    lab.app("one", a)
    lab.app("two", a)
    lab.start()
    lab.await_routed()
    pid = lab.haproxy()
    lab.kill()
    os.kill(pid, signal.SIGKILL)
    lab.release("one", b)

    with lab.store.transaction() as db:
        db.query(Instance).filter(Instance.app_id == lab.apps["two"]).delete()
        db.query(Release).filter(Release.app_id == lab.apps["two"]).delete()
        db.query(App).filter(App.id == lab.apps["two"]).delete()
        tell(db, events.ROUTES)
    lab.start()
    lab.await_routed()
    await_that(lambda: lab.status("two.localhost") == 404)
    assert get(lab.port, "one.localhost")[2] == "b"


def test_terminated(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """SIGTERM ends HAProxy, too, after the requests under way, and frees the port."""
    a = upstream("a")
    lab.app("one", a)
    lab.start()
    lab.await_routed()
    assert lab.controller
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, lab.port, "one.localhost", "/slow")
        await_that(lambda: a.busy)
        lab.controller.terminate()
        time.sleep(0.2)
        a.slow.set()
        assert slow.result()[2] == "a"
    assert lab.controller.wait(10) == 0
    assert find(config(lab.settings)) == []
    assert lab.status("one.localhost") == 0


def test_the_database_is_away(lab: Lab, upstream: Callable[[str], Upstream]) -> None:
    """With the database locked up the apps serve on; the controller says so and goes on when it is back."""
    a, b = upstream("a"), upstream("b")
    lab.app("one", a)
    lab.start()
    lab.await_routed()
    path = lab.settings.data / "shipway.db"
    away = path.with_name("away.db")
    path.rename(away)
    path.mkdir()
    time.sleep(0.3)
    assert lab.controller
    assert get(lab.port, "one.localhost")[2] == "a"
    assert lab.controller.poll() is None
    path.rmdir()
    away.rename(path)
    lab.release("one", b)
    lab.await_routed()
    assert get(lab.port, "one.localhost")[2] == "b"
