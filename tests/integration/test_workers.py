"""Workers on real parts: redis-server, SQLite, git, containers. Only the router is a stand-in that says "done"."""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from shipway.platform import applog, builds, formation, releases
from shipway.platform.models import App, Build, Instance, Release
from shipway.platform.states import BUILD_ENDED, BuildState, Desired, InstanceState, ReleaseState
from shipway.workers import retention
from shipway.workers.context import Context
from shipway.workers.logtail import last_lines
from workerlab import SERVER, Platform, get, new_app, open_platform, server, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with open_platform("workers") as platform:
        yield platform


@pytest.fixture
def app(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """An app of its own for each test, destroyed at the end."""
    with new_app(platform, request.node.name) as name:
        yield name


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
