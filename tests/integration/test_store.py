"""The store on real databases, SQLite and PostgreSQL, with a real Redis that comes and goes."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from postgres import postgres
from shipway.platform import builds, database, redis_server
from shipway.platform.errors import IllegalMove, LeaseLost
from shipway.platform.models import App, Build, Host, Instance, Outbox, Release, User
from shipway.platform.settings import Settings
from shipway.platform.states import BuildState
from shipway.platform.store import Store, move, say, signal
from support import scratch


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings of a prepared database with a user and an app."""
    with scratch() as folder:
        if request.param == "sqlite":
            yield _prepared(Settings(data=folder / "data"))
        else:
            with postgres(folder) as url:
                yield _prepared(Settings(data=folder / "data", database_url=url))


def _prepared(settings: Settings) -> Settings:
    database.prepare(settings)
    database.prepare(settings)  # the second time there is nothing to do
    store = Store(settings)
    with store.transaction() as db:
        user = User(name="admin", created_at=store.now(db))
        db.add(user)
        db.flush()
        db.add(App(name="hello", owner_id=user.id, created_at=store.now(db)))
    return settings


@pytest.fixture
def store(settings: Settings) -> Store:
    """A store whose Redis is down, unless a test starts it."""
    return Store(settings)


@contextmanager
def running_redis(settings: Settings) -> Iterator[redis.Redis]:
    """The private Redis server of these settings."""
    settings.run.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(redis_server.argv(settings), stdout=subprocess.DEVNULL)
    client = redis.Redis.from_url(settings.redis)
    for _ in range(500):
        try:
            client.ping()
            break
        except redis.RedisError:
            time.sleep(0.01)
    try:
        yield client
    finally:
        server.kill()
        server.wait()
        (settings.run / "redis.sock").unlink(missing_ok=True)


def test_an_old_database_with_apps_in_it_is_migrated() -> None:
    """Tables that others' rows point to are changed under them: nothing is lost, and nothing points nowhere."""
    with scratch() as folder:
        settings = _prepared(Settings(data=folder / "data"))
        store = Store(settings)
        queue_build(store)
        with store.transaction() as db:
            app, build = db.scalars(select(App)).one(), db.scalars(select(Build)).one()
            release = Release(
                app_id=app.id,
                version=1,
                user_id=build.user_id,
                build_id=build.id,
                created_at=store.now(db),
                description="first",
                image="sha256:" + "0" * 64,
                processes={"web": "x"},
            )
            host = Host(name="here")
            db.add_all([release, host])
            db.flush()
            db.add(
                Instance(
                    app_id=app.id,
                    release_id=release.id,
                    host_id=host.id,
                    process_type="web",
                    number=1,
                    created_at=store.now(db),
                )
            )
        store.engine.dispose()
        config = Config()
        config.set_main_option(
            "script_location", str(Path(database.__file__).parent / "migrations")
        )
        config.attributes["engine"] = store.engine
        assert ScriptDirectory.from_config(config).get_heads() == [database.HEAD]
        command.downgrade(config, "2026_11_0002")
        store.engine.dispose()
        database.prepare(settings)
        with store.reading() as db:
            assert db.scalars(select(Instance)).one().release.version == 1
            assert db.execute(text("PRAGMA foreign_key_check")).all() == []
            assert db.execute(text("PRAGMA foreign_keys")).scalar() == 1


def queue_build(store: Store) -> int:
    """A build that waits; its id."""
    with store.transaction() as db:
        app = db.scalars(select(App)).one()
        user = db.scalars(select(User)).one()
        build = builds.queue(
            db, app, user, store.now(db), commit="c" * 40, branch="refs/heads/main", old_commit=None
        )
        return build.id


def test_the_clock_is_the_databases(store: Store) -> None:
    """`now` is the database's clock in seconds since the epoch, with fractions."""
    with store.reading() as db:
        first = store.now(db)
    assert abs(first - time.time()) < 5
    assert first % 1 != 0


def test_a_move_that_does_not_exist_is_refused(store: Store) -> None:
    """An ended build cannot be made to run, and nothing changes."""
    number = queue_build(store)
    with store.transaction() as db:
        move(db, db.get_one(Build, number), BuildState.CANCELLED)
    with pytest.raises(IllegalMove, match="cancelled to running"), store.transaction() as db:
        move(db, db.get_one(Build, number), BuildState.RUNNING)
    with store.reading() as db:
        assert db.get_one(Build, number).state == BuildState.CANCELLED


def test_a_lost_race_changes_nothing(store: Store) -> None:
    """Who read a state that somebody else has moved on from since gets LeaseLost."""
    number = queue_build(store)
    with store.reading() as db:
        stale = db.get_one(Build, number)
    with store.transaction() as db:
        move(db, db.get_one(Build, number), BuildState.RUNNING, fence=1, owner="one")
    with pytest.raises(LeaseLost), store.transaction() as db:
        move(db, stale, BuildState.CANCELLED)
    with store.reading() as db:
        assert db.get_one(Build, number).owner == "one"


def test_one_of_many_wins_a_claim(settings: Settings) -> None:
    """Eight that claim the same build at once: one has it."""
    number = queue_build(Store(settings))
    won, barrier = [], threading.Barrier(8)

    def claim(who: str) -> None:
        own = Store(settings)
        barrier.wait()
        try:
            with own.transaction() as db:
                build = db.get_one(Build, number)
                if build.state == BuildState.QUEUED:
                    move(db, build, BuildState.RUNNING, owner=who, fence=build.fence + 1)
                    won.append(who)
        except (LeaseLost, IllegalMove):
            pass

    threads = [threading.Thread(target=claim, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store_reading(settings) as build_owner:
        assert build_owner(number) in won
        assert Store(settings) is not None
    assert len(won) == 1


@contextmanager
def store_reading(settings: Settings):
    """A function that reads a build's owner."""
    with Store(settings).reading() as db:
        yield lambda number: db.get_one(Build, number).owner


def test_a_lease_is_renewed_by_its_owner_alone(store: Store) -> None:
    """A newer fence ends the older owner's work."""
    number = queue_build(store)
    with store.transaction() as db:
        mine = db.get_one(Build, number)
        move(db, mine, BuildState.RUNNING, owner="one", fence=1)
    store.renew(mine)
    with store.transaction() as db:
        move(db, db.get_one(Build, number), BuildState.RUNNING, owner="two", fence=2)
    with pytest.raises(LeaseLost):
        store.renew(mine)


def test_a_duty_has_one_holder(store: Store) -> None:
    """Who holds a duty keeps it; another gets it when the time is over."""
    assert store.hold("duty", "one", 0.3)
    assert store.hold("duty", "one", 0.3)
    assert not store.hold("duty", "two", 0.3)
    time.sleep(0.4)
    assert store.hold("duty", "two", 30)
    assert not store.hold("duty", "one", 0.3)


def test_a_task_waits_for_redis_in_the_outbox(store: Store) -> None:
    """With Redis down the change is kept and the task with it; once Redis is back it is sent, then forgotten."""
    number = queue_build(store)
    with store.reading() as db:
        assert [row.args for row in db.scalars(select(Outbox)) if row.args == [number]]
    with running_redis(store.settings) as client:
        assert store.flush_outbox() > 0
        tasks = [json.loads(raw) for raw in client.lrange("builds", 0, -1)]
        assert any(task["headers"]["argsrepr"] == f"({number},)" for task in tasks)
    with store.reading() as db:
        assert not list(db.scalars(select(Outbox)))


def test_a_rolled_back_change_sends_nothing(store: Store) -> None:
    """What was not committed leaves neither row nor task."""
    with running_redis(store.settings) as client, pytest.raises(ZeroDivisionError):
        client.delete("builds")
        with store.transaction() as db:
            app, user = db.scalars(select(App)).one(), db.scalars(select(User)).one()
            builds.queue(
                db, app, user, store.now(db), commit="x", branch="refs/heads/x", old_commit=None
            )
            raise ZeroDivisionError
    with running_redis(store.settings) as client:
        assert client.llen("builds") == 0
    with store.reading() as db:
        assert not db.scalars(select(Build).where(Build.commit == "x")).all()


def test_a_newer_push_supersedes_one_that_waits(store: Store) -> None:
    """Of two builds of an app that wait, the newer one stays."""
    first, second = queue_build(store), queue_build(store)
    with store.reading() as db:
        assert db.get_one(Build, first).state == BuildState.SUPERSEDED
        assert db.get_one(Build, second).state == BuildState.QUEUED


def test_a_signal_wakes_a_waiter(store: Store) -> None:
    """A committed change wakes who listens within a moment; without Redis the wait ends by itself."""
    with running_redis(store.settings), store.signals.listen("topic") as listener:
        threading.Timer(0.2, lambda: _signal(store)).start()
        start = time.monotonic()
        assert listener.wait(10)
        assert time.monotonic() - start < 5
    with store.signals.listen("topic") as listener:
        start = time.monotonic()
        assert not listener.wait(10)
        assert time.monotonic() - start < 5


def _signal(store: Store) -> None:
    with store.transaction() as db:
        signal(db, "topic")


def test_output_comes_in_order(store: Store) -> None:
    """What a stream says is read from where the reader stood."""
    for number in range(5):
        with store.transaction() as db:
            say(db, "stream", f"line {number}")
    pieces = store.output_after("stream", 0)
    assert "".join(piece.text for piece in pieces) == "".join(f"line {n}\n" for n in range(5))
    assert [p.text for p in store.output_after("stream", pieces[2].id)] == ["line 3\n", "line 4\n"]
