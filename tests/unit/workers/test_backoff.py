"""When a crashed instance starts again."""

import pytest

from shipway.workers import backoff


def test_delays_by_crashes_in_a_row() -> None:
    """Three starts at once, then 10 s doubled up to five minutes, and never given up."""
    assert [backoff.delay(n) for n in range(1, 11)] == [0, 0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.delay(10_000) == 300


@pytest.mark.parametrize(
    ("before", "up_for", "after"), [(0, None, 1), (5, 599.0, 6), (5, 600.0, 1), (5, None, 6)]
)
def test_a_long_healthy_run_counts_from_one(before: int, up_for: float | None, after: int) -> None:
    """Ten minutes up make the next crash the first one again."""
    assert backoff.crashes_in_a_row(before, up_for) == after


@pytest.mark.parametrize(
    ("shift", "left"), [(0.0, 10.0), (3600.0, 0.0), (-3600.0, 300.0), (3.15e8, 0.0)]
)
def test_a_shifted_clock_costs_five_minutes_at_most(shift: float, left: float) -> None:
    """A clock set forward starts at once, one set back waits no longer than the longest pause."""
    now = 1_800_000_000.0
    assert backoff.wait_left(now + 10.0, now + shift) == left
