"""The bench's table: which rows there are, in which order, and when a goal is reached."""

import pytest
from benchmarks.__main__ import show
from benchmarks.rows import ROWS, Row


def row(ratio: float, *, more_is_better: bool) -> Row:
    """A row whose goal is 0.95."""
    return Row("x", "req/s", 100.0 * ratio, 100.0, "peer", ratio, 0.95, 5, more_is_better)


@pytest.mark.parametrize(
    ("ratio", "more_is_better", "reached"),
    [(0.9, False, True), (1.0, False, False), (0.9, True, False), (1.0, True, True)],
)
def test_a_goal_is_at_most_or_at_least(
    capsys: pytest.CaptureFixture[str], ratio: float, more_is_better: bool, reached: bool
) -> None:
    """Where more is better the ratio has to be at least the goal; the table marks what is not reached."""
    found = row(ratio, more_is_better=more_is_better)
    assert found.reached == found.as_dict()["reached"] == reached
    show([found])
    printed = capsys.readouterr().out
    assert ("(not reached)" in printed) == (not reached)
    assert ("≥ 0.95" if more_is_better else "≤ 0.95") in printed


def test_rows_in_order() -> None:
    """The table begins with the platform's rows, in the order in which they are shown; the engine's follow."""
    assert list(ROWS)[:8] == [
        "push-code-only",
        "push-first",
        "container-start",
        "scale-20",
        "router-throughput",
        "platform-idle-memory",
        "instance-memory",
        "platform-start",
    ]
