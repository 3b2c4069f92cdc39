"""Slowing down those who guess."""

from shipway.platform import throttle
from shipway.platform.throttle import Throttle


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_limit_holds_for_the_window_and_for_one_key():
    """After so many failures a key has to wait until the first of them is past, and others need not."""
    clock = Clock()
    guard = Throttle(limit=3, window=60, clock=clock)
    for _ in range(3):
        assert guard.wait("a") == 0
        guard.failed("a")
        clock.now += 10
    assert guard.wait("a") == 30
    assert guard.wait("b") == 0
    clock.now += 30
    assert guard.wait("a") == 0
    guard.failed("a")
    assert guard.wait("a") == 10


def test_a_success_forgets_the_failures():
    """Whoever gets in starts anew."""
    guard = Throttle(limit=1, window=60, clock=Clock())
    guard.failed("a")
    guard.succeeded("a")
    assert guard.wait("a") == 0


def test_memory_is_bounded(monkeypatch):
    """A flood of made-up names pushes out the oldest, and memory stays bounded."""
    monkeypatch.setattr(throttle, "MAX_KEYS", 10)
    guard = Throttle(limit=1, window=60, clock=Clock())
    for number in range(50):
        guard.failed(str(number))
    assert len(guard._failures) == 10
    assert guard.wait("49") > 0
    assert guard.wait("0") == 0
