"""How many builds one process runs at a time, without a hint getting lost when all slots are taken."""

import threading
from collections.abc import Callable


class Slots:
    """`work_off` calls `step` until it returns False, in at most `size` threads at once.

    A call that finds all slots taken returns at once, and whoever has a slot looks again before leaving it.
    """

    def __init__(self, size: int) -> None:
        self._free = threading.Semaphore(size)
        self._look_again = threading.Event()

    def work_off(self, step: Callable[[], bool]) -> None:
        """Do what there is to do, unless others are at it."""
        while self._enter():
            self._look_again.clear()
            try:
                while step():
                    pass
            finally:
                self._free.release()
            if not self._look_again.is_set():
                return

    def _enter(self) -> bool:
        if self._free.acquire(blocking=False):
            return True
        self._look_again.set()
        # One may have been left between the two lines above, and its holder may not have seen the mark.
        return self._free.acquire(blocking=False)
