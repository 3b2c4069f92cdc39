"""Following what a build and the deploy after it say, from any place on, to the end of both."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

from shipway.platform import events
from shipway.platform.models import Build, Release
from shipway.platform.states import BUILD_ENDED, BuildState, ReleaseState
from shipway.platform.store import Store

LOOK = 3.0  # seconds after which one looks into SQL without a signal
UNDER_WAY = frozenset({ReleaseState.PENDING, ReleaseState.DEPLOYING})


@dataclass(frozen=True)
class Piece:
    """Lines that were said; who has them goes on after `id`."""

    id: int
    lines: list[str]


@dataclass(frozen=True)
class End:
    """How it came out: `state` is live, or failed, cancelled, superseded; `version` is the release's, if one was made."""

    state: str
    reason: str | None
    version: int | None


def so_far(store: Store, work: Build | Release, after: int = 0) -> Iterator[Piece | End]:
    """What was said after the id `after`; the end, if it has come."""
    # The end is looked for first: what was said before it is then all there.
    end = _end(store, work)
    for row in store.output_after(work.stream, after):
        yield Piece(row.id, row.text.splitlines())
    if end is not None:
        yield end


def follow(store: Store, work: Build | Release, after: int = 0) -> Iterator[Piece | End | None]:
    """The same as it comes, until the end; None now and then, to notice who has stopped listening."""
    topics = events.app_topic(work.app_id), events.output_topic(work.stream)
    with store.signals.listen(*topics) as listener:
        while True:
            for piece in so_far(store, work, after):
                yield piece
                if isinstance(piece, End):
                    return
                after = piece.id
            listener.wait(LOOK)
            yield None


def _end(store: Store, work: Build | Release) -> End | None:
    with store.reading() as db:
        if isinstance(work, Build):
            build = db.get(Build, work.id)
            release = db.scalar(select(Release).where(Release.build_id == work.id))
        else:
            build, release = None, db.get(Release, work.id)
    if release is not None:
        if release.state in UNDER_WAY:
            return None
        live = release.state in (ReleaseState.LIVE, ReleaseState.RETIRED)
        return End("live" if live else release.state.value, release.reason, release.version)
    if build is None:
        return End("failed", "The app was destroyed.", None)
    if build.state not in BUILD_ENDED or build.state == BuildState.SUCCEEDED:
        return None
    return End(build.state.value, build.reason, None)
