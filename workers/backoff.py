"""When an instance that crashed starts again: three times at once, then 10 s, doubled up to 5 minutes, for ever."""

IMMEDIATE = 3
FIRST = 10.0  # seconds
LONGEST = 300.0
HEALTHY = 600.0  # seconds up after which a crash counts as the first one again


def crashes_in_a_row(before: int, up_for: float | None) -> int:
    """The count after one more crash; `up_for` is how long it had been up, None if it never was."""
    return 1 if up_for is not None and up_for >= HEALTHY else before + 1


def delay(crashes: int) -> float:
    """Seconds to wait after that many crashes in a row."""
    if crashes <= IMMEDIATE:
        return 0.0
    return min(LONGEST, FIRST * 2.0 ** min(crashes - IMMEDIATE - 1, 10))


def wait_left(next_start_at: float, now: float) -> float:
    """Seconds until a start that is due at `next_start_at`; a clock that was set back costs 5 minutes at most."""
    return min(max(0.0, next_start_at - now), LONGEST)
