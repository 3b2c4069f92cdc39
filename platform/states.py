"""The state machines: which moves exist. Everything else is an IllegalMove."""

from collections.abc import Mapping
from enum import StrEnum

from shipway.platform.errors import IllegalMove


class BuildState(StrEnum):
    """From a commit to an image."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # a newer push of the same app came before this one was done


class ReleaseState(StrEnum):
    """From an image, a config and process types to what serves."""

    PENDING = "pending"
    DEPLOYING = "deploying"
    LIVE = "live"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # a newer release came before this one was live
    RETIRED = "retired"  # was live; a newer release took over


class Outcome(StrEnum):
    """What became of a push: of its build, and of the release that the build made. Read from both, kept nowhere."""

    QUEUED = "queued"
    BUILDING = "building"
    DEPLOYING = "deploying"
    SUCCEEDED = "succeeded"  # it went live; whether it still serves, the release says
    BUILD_FAILED = "build failed"
    DEPLOY_FAILED = "deploy failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class InstanceState(StrEnum):
    """One running copy of a process type, as last seen by its host."""

    PENDING = "pending"
    STARTING = "starting"
    UP = "up"
    CRASHED = "crashed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Desired(StrEnum):
    """What an instance is wanted to do."""

    RUNNING = "running"
    STOPPED = "stopped"


State = BuildState | ReleaseState | InstanceState

Moves = Mapping[State, frozenset[State]]

BUILD: Moves = {
    BuildState.QUEUED: frozenset(
        {
            BuildState.RUNNING,
            BuildState.CANCELLED,
            BuildState.SUPERSEDED,
            BuildState.FAILED,
        }
    ),
    # running -> running: a new owner takes over after the old one's lease ran out
    BuildState.RUNNING: frozenset(
        {
            BuildState.RUNNING,
            BuildState.SUCCEEDED,
            BuildState.FAILED,
            BuildState.CANCELLED,
            BuildState.SUPERSEDED,
        }
    ),
    BuildState.SUCCEEDED: frozenset(),
    BuildState.FAILED: frozenset(),
    BuildState.CANCELLED: frozenset(),
    BuildState.SUPERSEDED: frozenset(),
}
RELEASE: Moves = {
    # pending -> live: a change of scale, which needs no deploy
    ReleaseState.PENDING: frozenset(
        {
            ReleaseState.DEPLOYING,
            ReleaseState.LIVE,
            ReleaseState.FAILED,
            ReleaseState.CANCELLED,
            ReleaseState.SUPERSEDED,
        }
    ),
    ReleaseState.DEPLOYING: frozenset(
        {
            ReleaseState.DEPLOYING,
            ReleaseState.LIVE,
            ReleaseState.FAILED,
            ReleaseState.CANCELLED,
            ReleaseState.SUPERSEDED,
        }
    ),
    ReleaseState.LIVE: frozenset({ReleaseState.RETIRED}),
    ReleaseState.FAILED: frozenset(),
    ReleaseState.CANCELLED: frozenset(),
    ReleaseState.SUPERSEDED: frozenset(),
    ReleaseState.RETIRED: frozenset(),
}
INSTANCE: Moves = {
    InstanceState.PENDING: frozenset({InstanceState.STARTING, InstanceState.STOPPED}),
    InstanceState.STARTING: frozenset(
        {
            InstanceState.UP,
            InstanceState.CRASHED,
            InstanceState.STOPPING,
            InstanceState.STOPPED,
        }
    ),
    InstanceState.UP: frozenset(
        {InstanceState.CRASHED, InstanceState.STOPPING, InstanceState.STOPPED}
    ),
    InstanceState.CRASHED: frozenset({InstanceState.STARTING, InstanceState.STOPPED}),
    InstanceState.STOPPING: frozenset({InstanceState.STOPPED}),
    InstanceState.STOPPED: frozenset(),
}
# By machine, since states of two machines that have the same word are equal.
MOVES: Mapping[type[State], Moves] = {
    BuildState: BUILD,
    ReleaseState: RELEASE,
    InstanceState: INSTANCE,
}

BUILD_ENDED = frozenset(
    {
        BuildState.SUCCEEDED,
        BuildState.FAILED,
        BuildState.CANCELLED,
        BuildState.SUPERSEDED,
    }
)


OF_BUILD: Mapping[BuildState, Outcome] = {
    BuildState.QUEUED: Outcome.QUEUED,
    BuildState.RUNNING: Outcome.BUILDING,
    BuildState.SUCCEEDED: Outcome.SUCCEEDED,
    BuildState.FAILED: Outcome.BUILD_FAILED,
    BuildState.CANCELLED: Outcome.CANCELLED,
    BuildState.SUPERSEDED: Outcome.SUPERSEDED,
}
OF_RELEASE: Mapping[ReleaseState, Outcome] = {
    ReleaseState.PENDING: Outcome.DEPLOYING,
    ReleaseState.DEPLOYING: Outcome.DEPLOYING,
    ReleaseState.LIVE: Outcome.SUCCEEDED,
    ReleaseState.RETIRED: Outcome.SUCCEEDED,
    ReleaseState.FAILED: Outcome.DEPLOY_FAILED,
    ReleaseState.CANCELLED: Outcome.CANCELLED,
    ReleaseState.SUPERSEDED: Outcome.SUPERSEDED,
}


def outcome(build: BuildState, release: ReleaseState | None) -> Outcome:
    """What became of a push, by the state of its build and of the release it led to, None for none."""
    return OF_RELEASE[release] if release else OF_BUILD[build]


def check_move(thing: str, origin: State, target: State) -> None:
    """Raise IllegalMove unless `origin` may become `target`; `thing` names it in the message."""
    if target not in MOVES[type(origin)][origin]:
        raise IllegalMove(thing, origin, target)
