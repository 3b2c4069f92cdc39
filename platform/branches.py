"""The deploy branch follows the app's releases: git never moves it, we do, once a release is live.

A branch that is behind is brought up by whoever comes first: the receiver that holds the push open, or, where its
client or its process is gone, the reconciler.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform.models import App, Build, Release
from shipway.platform.repos import Repos
from shipway.platform.states import BUILD_ENDED, ReleaseState
from shipway.platform.store import Store

WENT_LIVE = (ReleaseState.LIVE, ReleaseState.RETIRED)


def behind(db: Session, now: float) -> list[int]:
    """Ids of the builds whose release is live and whose branch nobody has moved: nobody holds their push open."""
    found = select(Build.id).join(Release, Release.build_id == Build.id)
    return list(
        db.scalars(
            found.where(
                Build.ref_moved.is_(False), Build.push_until < now, Release.state.in_(WENT_LIVE)
            ).order_by(Release.version)
        )
    )


def dead_builds(db: Session, app_id: int) -> list[int]:
    """Ids of the app's builds that have ended without a release that went live: their commits need not be kept."""
    alive = select(Release.build_id).where(
        Release.app_id == app_id,
        Release.build_id.is_not(None),
        Release.state != ReleaseState.FAILED,
    )
    ended = Build.state.in_(BUILD_ENDED)
    return list(
        db.scalars(select(Build.id).where(Build.app_id == app_id, ended, Build.id.not_in(alive)))
    )


def settle(store: Store, repos: Repos, build_id: int) -> bool:
    """Move the branch of a build to its commit if its release went live; False if it did not, or the app is gone.

    A branch that a newer release has moved stays where it is. Safe to call any number of times, by anybody.
    """
    with store.reading() as db:
        build = db.get(Build, build_id)
        app = db.get(App, build.app_id) if build else None
        if build is None or app is None or app.destroyed_at is not None:
            return False
    repos.ensure(app.name, app.id)
    with repos.lock(app.name):
        with store.reading() as db:
            live = select(Release.version).where(Release.state.in_(WENT_LIVE))
            version = db.scalar(live.where(Release.build_id == build_id))
            passed = db.scalar(
                live.join(Build, Release.build_id == Build.id).where(
                    Build.app_id == app.id,
                    Build.branch == build.branch,
                    Build.ref_moved.is_(True),
                    Release.version > (version or 0),
                )
            )
        if version is None:
            return False
        if passed is None:
            repos.move_branch(app.name, build.branch, build.commit)
        with store.transaction() as db:
            moved = db.get(Build, build_id)
            if moved is not None:
                moved.ref_moved = True
    return True
