"""Claims: which build or release may be begun now, and taking it with a lease and a new fence.

A claim never waits: what cannot be begun yet is found again when what it waits for ends, or by the reconciler.
"""

import contextlib

from sqlalchemy import Select, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased, joinedload

from shipway.platform import builds, events, formation, releases
from shipway.platform.errors import LeaseLost
from shipway.platform.models import App, Build, Release
from shipway.platform.states import BuildState, ReleaseState, State
from shipway.platform.store import LEASE, Store, Work, move, say, signal
from shipway.workers import owner

MAX_ATTEMPTS = 3


def claim_build(store: Store, me: str) -> Build | None:
    """The oldest build that may run now, made ours; None if there is none."""
    while True:
        with contextlib.suppress(LeaseLost), store.transaction() as db:
            build = db.scalars(_claimable_builds(store)).first()
            if build is None or _take_build(store, db, build, me):
                return build


def claim_release(store: Store, me: str) -> Release | None:
    """The oldest release that may be deployed now, made ours; None if there is none."""
    while True:
        with contextlib.suppress(LeaseLost), store.transaction() as db:
            release = db.scalars(_claimable_releases(store)).first()
            if release is None or _take_release(store, db, release, me):
                return release


def anything_claimable(store: Store) -> tuple[bool, bool]:
    """Whether some build, whether some release could be claimed now."""
    with store.reading() as db:
        build = db.scalars(_claimable_builds(store)).first()
        release = db.scalars(_claimable_releases(store)).first()
    return build is not None, release is not None


def give_back(store: Store, work: Work) -> None:
    """Let another process take over at once, without counting this attempt."""
    with store.transaction() as db:
        if row := still_held(db, work):
            row.lease_until = 0.0
            row.attempts = max(0, row.attempts - 1)


def still_held(db: Session, work: Work) -> Work | None:
    """The row of claimed work in this transaction, None if it is another's by now or gone."""
    row = db.get(type(work), work.id)
    held = row is not None and (row.fence, row.owner) == (work.fence, work.owner)
    return row if held else None


def release_dead(store: Store) -> int:
    """End the leases of processes of this machine that are no more; how many."""
    running = _held_by_dead(store, Build, BuildState.RUNNING)
    deploys = _held_by_dead(store, Release, ReleaseState.DEPLOYING)
    for build in running:
        _end_lease(store, build)
    for release in deploys:
        _end_lease(store, release)
    return len(running) + len(deploys)


def _held_by_dead(store: Store, kind: type[Work], state: State) -> list[Work]:
    host = store.settings.host_name
    with store.reading() as db:
        held = db.scalars(
            select(kind).where(
                kind.state == state,
                kind.lease_until >= store.clock(),
                kind.owner.startswith(owner.machine(host) + "/", autoescape=True),
                kind.owner != owner.process(host),
            )
        )
        return [work for work in held if owner.has_died(work.owner or "", host)]


def _end_lease(store: Store, work: Work) -> None:
    with store.transaction() as db:
        if row := still_held(db, work):
            row.lease_until = 0.0


def _claimable_builds(store: Store) -> Select[Build]:
    other = aliased(Build)
    clock = store.clock()
    # One build of an app at a time: the next one's cache is what this one leaves.
    busy = exists().where(
        other.app_id == Build.app_id,
        other.id != Build.id,
        other.state == BuildState.RUNNING,
        other.lease_until >= clock,
    )
    open_ = or_(
        Build.state == BuildState.QUEUED,
        and_(Build.state == BuildState.RUNNING, Build.lease_until < clock),
    )
    return (
        select(Build)
        .join(App, App.id == Build.app_id)
        .where(open_, ~busy, App.destroyed_at.is_(None))
        .options(joinedload(Build.app), joinedload(Build.user))
        .order_by(Build.id)
        .limit(1)
        .with_for_update(of=(Build, App), skip_locked=True)
    )


def _claimable_releases(store: Store) -> Select[Release]:
    lower = aliased(Release)
    # In order of version: a release's predecessor is what it falls back to.
    first = ~exists().where(
        lower.app_id == Release.app_id,
        lower.version < Release.version,
        lower.state.in_(releases.UNFINISHED),
    )
    return (
        select(Release)
        .join(App, App.id == Release.app_id)
        .where(
            Release.state.in_(releases.UNFINISHED),
            Release.lease_until < store.clock(),
            first,
            App.destroyed_at.is_(None),
        )
        .options(joinedload(Release.app), joinedload(Release.user), joinedload(Release.build))
        .order_by(Release.id)
        .limit(1)
        .with_for_update(of=(Release, App), skip_locked=True)
    )


def _take_build(store: Store, db: Session, build: Build, me: str) -> bool:
    now = store.now(db)
    if build.cancel_requested:
        state, reason = builds.end_asked_for(build)
        say(db, build.stream, f" !     {reason}")
        end_build(db, build, state, reason, now)
        return False
    if build.attempts >= MAX_ATTEMPTS:
        say(db, build.stream, f" !     Builder lost {build.attempts} times; giving up.")
        end_build(db, build, BuildState.FAILED, "builder lost", now)
        return False
    if build.attempts:
        again = f"{build.attempts + 1}/{MAX_ATTEMPTS}"
        say(db, build.stream, f" !     Builder lost, retrying ({again}).")
    move(
        db,
        build,
        BuildState.RUNNING,
        owner=me,
        fence=build.fence + 1,
        lease_until=store.clock() + LEASE,
        attempts=build.attempts + 1,
        started_at=now,
    )
    signal(db, events.app_topic(build.app_id))
    return True


def _take_release(store: Store, db: Session, release: Release, me: str) -> bool:
    if release.end_wanted:
        state = releases.ENDS[release.end_wanted]
        end_release(db, release, state, release.reason or "", store.now(db))
        return False
    if release.attempts >= MAX_ATTEMPTS and release.app.release_id != release.id:
        say(db, release.stream, f" !     Deployer lost {release.attempts} times; giving up.")
        end_release(db, release, ReleaseState.FAILED, "deployer lost", store.now(db))
        return False
    move(
        db,
        release,
        ReleaseState.DEPLOYING,
        owner=me,
        fence=release.fence + 1,
        lease_until=store.clock() + LEASE,
        attempts=release.attempts + 1,
    )
    return True


def end_build(db: Session, build: Build, state: BuildState, reason: str | None, now: float) -> None:
    """Move a build to its end, and tell those who wait for it."""
    move(db, build, state, reason=reason, ended_at=now)
    signal(db, events.app_topic(build.app_id), events.output_topic(build.stream))


def end_release(
    db: Session, release: Release, state: ReleaseState, reason: str, now: float
) -> None:
    """Give a release up: its instances go, all else stays as it was."""
    formation.retire(db, release.app, formation.running(db, release))
    move(db, release, state, reason=reason, ended_at=now)
    signal(db, events.app_topic(release.app_id), events.output_topic(release.stream))
