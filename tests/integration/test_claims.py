"""Claims of builds and releases, on SQLite and PostgreSQL: one owner at a time, lost ones found again."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from postgres import postgres
from shipway.platform import builds, database, releases
from shipway.platform.errors import LeaseLost
from shipway.platform.models import App, Build, Host, Release, User
from shipway.platform.settings import Settings
from shipway.platform.states import BuildState, ReleaseState
from shipway.platform.store import Store
from shipway.workers import claims, owner
from support import scratch


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings of a prepared database with a user."""
    with scratch() as folder:
        if request.param == "sqlite":
            yield prepared(Settings(data=folder / "data"))
        else:
            with postgres(folder) as url:
                yield prepared(Settings(data=folder / "data", database_url=url))


def prepared(settings: Settings) -> Settings:
    database.prepare(settings)
    store = Store(settings)
    with store.transaction() as db:
        db.add(User(name="ada", created_at=0.0))
        db.add(Host(name="local", alive_until=0.0, memory={}))
    return settings


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """A store in which no work is left from the test before."""
    store = Store(settings)
    yield store
    with store.transaction() as db:
        for app in db.scalars(select(App)):
            app.destroyed_at = 1.0
    store.engine.dispose()


def make_app(store: Store, name: str) -> int:
    with store.transaction() as db:
        user = db.scalars(select(User)).one()
        app = App(name=name, owner_id=user.id, created_at=0.0)
        db.add(app)
        db.flush()
        return app.id


def queue(store: Store, app_id: int) -> int:
    with store.transaction() as db:
        build = builds.queue(
            db,
            db.get_one(App, app_id),
            db.scalars(select(User)).one(),
            store.now(db),
            commit="c" * 40,
            branch="refs/heads/main",
            old_commit=None,
        )
        return build.id


def release(store: Store, app_id: int) -> int:
    with store.transaction() as db:
        made = releases.create(
            db,
            db.get_one(App, app_id),
            db.scalars(select(User)).one(),
            store.now(db),
            description="Deploy",
            image="sha256:0",
            processes={},
            config=None,
        )
        return made.id


def lapse(store: Store, work: Build | Release) -> None:
    """Let the lease run out."""
    with store.transaction() as db:
        db.get_one(type(work), work.id).lease_until = 1.0  # type: ignore[attr-defined]


def get_build(store: Store, build_id: int) -> Build:
    with store.reading() as db:
        return db.get_one(Build, build_id)


def test_ten_claim_and_one_gets_it(store: Store) -> None:
    """Of ten workers that claim one build at once, one gets it."""
    queue(store, make_app(store, "ten"))
    found: list[Build | None] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(claims.claim_build(store, f"w{n}")))
        for n in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert len([build for build in found if build]) == 1


def test_one_build_of_an_app_at_a_time(store: Store) -> None:
    """A second build of an app waits for the first; those of other apps do not."""
    first, other = make_app(store, "first"), make_app(store, "other")
    queue(store, first)
    running = claims.claim_build(store, "w1")
    assert running
    waiting, elsewhere = queue(store, first), queue(store, other)
    claimed = claims.claim_build(store, "w2")
    assert claimed
    assert claimed.id == elsewhere
    assert claims.claim_build(store, "w3") is None
    with store.transaction() as db:
        row = claims.still_held(db, running)
        assert row
        claims.end_build(db, row, BuildState.FAILED, "x", 1.0)
    following = claims.claim_build(store, "w3")
    assert following
    assert following.id == waiting


def test_a_lost_build_is_retried_three_times(store: Store) -> None:
    """A build whose lease ran out is claimed again with a new fence; the third loss ends it."""
    build_id = queue(store, make_app(store, "lost"))
    for fence in (1, 2, 3):
        build = claims.claim_build(store, "w")
        assert build
        assert (build.id, build.fence, build.attempts) == (build_id, fence, fence)
        lapse(store, build)
    assert claims.claim_build(store, "w") is None
    ended = get_build(store, build_id)
    assert (ended.state, ended.reason) == (BuildState.FAILED, "builder lost")


def test_the_old_owner_can_write_nothing(store: Store) -> None:
    """Who lost the lease holds the row no more, and cannot renew."""
    queue(store, make_app(store, "zombie"))
    old = claims.claim_build(store, "same")
    assert old
    lapse(store, old)
    new = claims.claim_build(store, "same")
    assert new
    with store.transaction() as db:
        assert claims.still_held(db, old) is None
        assert claims.still_held(db, new) is not None
    with pytest.raises(LeaseLost):
        store.renew(old)


def test_given_back_counts_no_attempt(store: Store) -> None:
    """Work that a process gives back at its end is claimed at once, and has lost no attempt."""
    queue(store, make_app(store, "back"))
    build = claims.claim_build(store, "w1")
    assert build
    claims.give_back(store, build)
    again = claims.claim_build(store, "w2")
    assert again
    assert (again.fence, again.attempts) == (2, 1)


def test_a_dead_process_is_not_waited_for(store: Store) -> None:
    """The lease of a process of this machine that is no more ends at once; a live one's and a stranger's do not."""
    dead = owner.machine("local") + "/999999999.1"
    for number, me in enumerate((dead, owner.process("local"), "elsewhere/0.0/1.1")):
        queue(store, make_app(store, f"dead{number}"))
        assert claims.claim_build(store, me)
    assert claims.release_dead(store) == 1
    found = claims.claim_build(store, "w")
    assert found
    assert found.app.name == "dead0"


def test_releases_go_in_order(store: Store) -> None:
    """A release waits for the ones of its app before it, and none is claimed twice."""
    app_id = make_app(store, "order")
    first, second = release(store, app_id), release(store, app_id)
    claimed = claims.claim_release(store, "w1")
    assert claimed
    assert claimed.id == first
    assert claims.claim_release(store, "w2") is None
    with store.transaction() as db:
        row = claims.still_held(db, claimed)
        assert row
        claims.end_release(db, row, ReleaseState.FAILED, "x", 1.0)
    following = claims.claim_release(store, "w2")
    assert following
    assert following.id == second


def test_a_lost_release_fails_unless_it_serves(store: Store) -> None:
    """A release lost three times is given up, but one that the routes were moved to already is gone on with."""
    app_id = make_app(store, "serves")
    release_id = release(store, app_id)
    for _ in range(3):
        claimed = claims.claim_release(store, "w")
        assert claimed
        lapse(store, claimed)
    with store.transaction() as db:
        db.get_one(App, app_id).release_id = release_id
    again = claims.claim_release(store, "w")
    assert again
    lapse(store, again)
    with store.transaction() as db:
        db.get_one(App, app_id).release_id = None
    assert claims.claim_release(store, "w") is None
    with store.reading() as db:
        assert db.get_one(Release, release_id).state == ReleaseState.FAILED


def test_cancelled_before_it_is_taken_over(store: Store) -> None:
    """A lost build that somebody asked to cancel is cancelled instead of built again."""
    build_id = queue(store, make_app(store, "cancelled"))
    build = claims.claim_build(store, "w")
    assert build
    with store.transaction() as db:
        db.get_one(Build, build_id).cancel_requested = True
    lapse(store, build)
    assert claims.claim_build(store, "w") is None
    assert get_build(store, build_id).state == BuildState.CANCELLED


def test_anything_claimable(store: Store) -> None:
    """The look that polls before it claims sees what a claim would get."""
    assert claims.anything_claimable(store) == (False, False)
    app_id = make_app(store, "any")
    queue(store, app_id)
    assert claims.anything_claimable(store) == (True, False)
    release(store, app_id)
    assert claims.claim_build(store, "w")
    assert claims.anything_claimable(store) == (False, True)
