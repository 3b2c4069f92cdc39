"""What a deploy says while it waits, and when."""

import pytest

from shipway.platform.models import Instance
from shipway.platform.states import InstanceState
from shipway.workers.patience import Patience, waited_for, waiting_line

STARTING = InstanceState.STARTING


def instance(kind: str, number: int, state: InstanceState, started_at: float | None) -> Instance:
    """An instance's row."""
    return Instance(
        process_type=kind, number=number, state=state, created_at=100.0, started_at=started_at
    )


def test_it_speaks_ever_more_seldom() -> None:
    """Looking every second for a minute, it is told after 5, 10, 20 and 40 seconds."""
    patience = Patience()
    assert [second for second in range(61) if patience.is_over(second)] == [5, 10, 20, 40]


def test_who_takes_over_does_not_say_all_at_once() -> None:
    """A worker that begins to look after 23 seconds says so once, and is next heard at 40."""
    patience = Patience()
    assert patience.is_over(23.0)
    assert not patience.is_over(23.1)
    assert patience.due == 40


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [instance("web", 1, STARTING, 102.0)],
            "       Waiting for web.1 to answer on port 5000... 10 s",
        ),
        (
            [instance("web", 2, STARTING, 102.0), instance("web", 3, STARTING, 103.0)],
            "       Waiting for web.2 to answer on port 5000 (and 1 more)... 10 s",
        ),
        (
            [instance("worker", 1, STARTING, 102.0)],
            "       Waiting for worker.1 to stay up... 10 s",
        ),
        (
            [instance("web", 1, InstanceState.PENDING, None)],
            "       Waiting for its host to start web.1... 12 s",
        ),
    ],
)
def test_it_says_what_it_waits_for(rows: list[Instance], line: str) -> None:
    """The line names the first instance that is not up, what is missing, and since when."""
    assert waiting_line(rows, waited_for(rows, 112.0)) == line
