"""What an instance needs next: a table from what is wanted and what was seen. No input or output."""

from dataclasses import dataclass
from enum import Enum, auto

from shipway.platform.states import Desired, InstanceState

# Seconds that the connections have which the router had given to an instance just before it let go of it.
DRAIN = 1.0
LOOK = 0.2  # seconds between two looks whether requests are still under way


class Step(Enum):
    """What to do with an instance now."""

    NOTHING = auto()
    START = auto()  # a container of its next fence
    RESUME = auto()  # its container may be there: find it, or start it, and see to it
    ABORT = auto()  # it is no longer wanted while it starts
    STOP = auto()
    FORGET = auto()  # there is no container, nor shall there be


@dataclass(frozen=True)
class Seen:
    """One instance, as the rows and this process know it.

    `busy`: one of our threads is at it. `watched`: we hold its pidfds. `serves`: its release is the app's, or was and
    is not replaced yet; others are not started again. `drained`: the router has let go of it. `was_up`: it has ever
    been routed to. `answering`: requests are under way. `restart_in`, `drained_for`, `drain_timeout`: seconds.
    """

    desired: Desired
    state: InstanceState
    busy: bool = False
    watched: bool = False
    serves: bool = True
    drained: bool = False
    was_up: bool = False
    answering: bool = False
    restart_in: float = 0.0
    drained_for: float = 0.0
    drain_timeout: float = 0.0


def next_step(seen: Seen) -> tuple[Step, float | None]:
    """The step, and in how many seconds to look again if nothing happens before."""
    if seen.desired == Desired.STOPPED:
        return _towards_stopped(seen)
    if seen.busy:
        return Step.NOTHING, None
    match seen.state:
        case InstanceState.PENDING:
            return Step.START, None
        case InstanceState.CRASHED:
            return _after_crash(seen)
        case InstanceState.STARTING | InstanceState.UP if not seen.watched:
            return Step.RESUME, None
        case InstanceState.STOPPING:
            return Step.STOP, None
    return Step.NOTHING, None


def _after_crash(seen: Seen) -> tuple[Step, float | None]:
    if not seen.serves:
        return Step.NOTHING, None
    if seen.restart_in > 0:
        return Step.NOTHING, seen.restart_in
    return Step.START, None


def _towards_stopped(seen: Seen) -> tuple[Step, float | None]:
    if seen.busy:
        return (Step.ABORT if seen.state == InstanceState.STARTING else Step.NOTHING), None
    match seen.state:
        case InstanceState.PENDING | InstanceState.CRASHED:
            return Step.FORGET, None
        case InstanceState.STARTING | InstanceState.STOPPING:
            return Step.STOP, None
        case InstanceState.UP:
            return _drain(seen)
    return Step.NOTHING, None


def _drain(seen: Seen) -> tuple[Step, float | None]:
    if not seen.drained:
        return Step.NOTHING, None
    if seen.drained_for < DRAIN:
        return Step.NOTHING, DRAIN - seen.drained_for
    left = seen.drain_timeout - seen.drained_for
    if seen.answering and left > 0:
        return Step.NOTHING, min(LOOK, left)
    return Step.STOP, None
