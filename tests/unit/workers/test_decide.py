"""What an instance needs next."""

import pytest

from shipway.platform.states import Desired, InstanceState
from shipway.workers.decide import DRAIN, LOOK, Seen, Step, next_step

RUN, STOP = Desired.RUNNING, Desired.STOPPED
PENDING, STARTING, UP = InstanceState.PENDING, InstanceState.STARTING, InstanceState.UP
CRASHED, STOPPING = InstanceState.CRASHED, InstanceState.STOPPING


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(RUN, PENDING), (Step.START, None)),
        (Seen(RUN, PENDING, busy=True), (Step.NOTHING, None)),
        (Seen(RUN, STARTING), (Step.RESUME, None)),
        (Seen(RUN, UP), (Step.RESUME, None)),
        (Seen(RUN, UP, watched=True), (Step.NOTHING, None)),
        (Seen(RUN, STOPPING), (Step.STOP, None)),
        (Seen(RUN, CRASHED), (Step.START, None)),
        (Seen(RUN, CRASHED, restart_in=7.0), (Step.NOTHING, 7.0)),
        (Seen(RUN, CRASHED, serves=False), (Step.NOTHING, None)),
        (Seen(STOP, PENDING), (Step.FORGET, None)),
        (Seen(STOP, CRASHED, restart_in=7.0), (Step.FORGET, None)),
        (Seen(STOP, STARTING), (Step.STOP, None)),
        (Seen(STOP, STARTING, busy=True), (Step.ABORT, None)),
        (Seen(STOP, UP, busy=True), (Step.NOTHING, None)),
        (Seen(STOP, UP, watched=True), (Step.NOTHING, None)),
        (Seen(STOP, UP, watched=True, drained=True), (Step.NOTHING, DRAIN)),
        (Seen(STOP, UP, drained=True, drained_for=DRAIN), (Step.STOP, None)),
        (
            Seen(STOP, UP, drained=True, drained_for=2.0, answering=True, drain_timeout=9.0),
            (Step.NOTHING, LOOK),
        ),
        (
            Seen(STOP, UP, drained=True, drained_for=9.0, answering=True, drain_timeout=9.0),
            (Step.STOP, None),
        ),
        (Seen(STOP, STOPPING), (Step.STOP, None)),
        (Seen(STOP, STOPPING, busy=True), (Step.NOTHING, None)),
    ],
)
def test_next_step(seen: Seen, expected: tuple[Step, float | None]) -> None:
    """Each state leads to one step; what still drains or waits says when to look again."""
    assert next_step(seen) == expected


def test_what_runs_is_never_stopped_unasked() -> None:
    """No state of an instance that is wanted leads to its end, unless that had begun."""
    for state in (PENDING, STARTING, UP, CRASHED):
        for watched in (True, False):
            step, _ = next_step(Seen(RUN, state, watched=watched))
            assert step not in (Step.STOP, Step.FORGET, Step.ABORT)
