"""How much memory instances took lately: what the hosts' heartbeats said, kept in this process for the graphs."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from shipway.platform.models import Host
from shipway.platform.store import Store

EVERY = 5.0  # seconds: the hosts' heartbeat
KEPT = 60  # samples of an instance: five minutes


class MemoryHistory:
    """Samples of the memory of all instances, in bytes; a thread of its own takes them once somebody has looked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._samples: dict[int, deque[int]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def series(self, instances: Iterable[int]) -> dict[int, list[int]]:
        """The samples of `instances` (by id) in order of time; those never seen are left out."""
        self._start()
        with self._lock:
            return {key: list(self._samples[key]) for key in instances if key in self._samples}

    def sample(self) -> None:
        """Take what the heartbeats say now; instances that are gone are forgotten."""
        with self._store.reading() as db:
            found = [memory or {} for memory in db.scalars(select(Host.memory))]
        now = {int(key): int(size) for memory in found for key, size in memory.items()}
        with self._lock:
            kept = {key: self._samples.get(key, deque(maxlen=KEPT)) for key in now}
            for key, size in now.items():
                kept[key].append(size)
            self._samples = kept

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        with contextlib.suppress(DBAPIError):
            self.sample()
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY):
            with contextlib.suppress(DBAPIError):  # the next heartbeat is as good
                self.sample()


def total(series: Iterable[Sequence[int]]) -> list[int]:
    """The sum of several series that end at the same moment; each counts from its own first sample on."""
    found = [list(one) for one in series]
    size = max(map(len, found), default=0)
    return [sum(one[i - size] for one in found if size - i <= len(one)) for i in range(size)]
