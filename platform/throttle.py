"""Slows down those who guess passwords."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MAX_KEYS = 10_000  # of whom we remember; the one longest unheard of goes first


class Throttle:
    """Allows `limit` failures by key within `window` seconds; kept in memory, per process."""

    def __init__(
        self, limit: int, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Seconds until `key` may try again; 0 if it may now."""
        with self._lock:
            failures = self._recent(key)
            if len(failures) < self._limit:
                return 0.0
            return max(0.0, failures[0] + self._window - self._clock())

    def failed(self, key: str) -> None:
        """Count a failure of `key`."""
        with self._lock:
            failures = self._failures.setdefault(key, deque(maxlen=self._limit))
            failures.append(self._clock())
            self._failures.move_to_end(key)
            while len(self._failures) > MAX_KEYS:
                self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        with self._lock:
            self._failures.pop(key, None)

    def _recent(self, key: str) -> deque[float]:
        failures = self._failures.get(key, deque())
        while failures and failures[0] + self._window <= self._clock():
            failures.popleft()
        return failures
