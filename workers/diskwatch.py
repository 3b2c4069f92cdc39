"""The disk that a build uses: looked at while it runs, so that it ends before the machine's disk is full."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PAUSE = 1.0  # seconds between two looks at least
SHARE = 10  # at most one part in so many of the time goes into looking


class DiskWatch:
    """A thread that calls `exceeded` once when the folders have more than `limit` bytes together."""

    def __init__(self, folders: Sequence[Path], limit: int, exceeded: Callable[[], None]) -> None:
        self._folders = folders
        self._limit = limit
        self._exceeded = exceeded
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-watch", daemon=True)

    def __enter__(self) -> "DiskWatch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pause = PAUSE
        while not self._over.wait(pause):
            start = time.monotonic()
            if used(self._folders) > self._limit:
                self._exceeded()
                return
            pause = max(PAUSE, SHARE * (time.monotonic() - start))


def used(folders: Sequence[Path]) -> int:
    """The bytes on disk of all that is in the folders; files that vanish meanwhile do not count."""
    there = [str(folder) for folder in folders if folder.exists()]
    if not there:
        return 0
    argv = ["du", "--summarize", "--one-file-system", "--block-size=1", "--total", "--", *there]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1:] or ["0"]
    return int(last[0].split()[0])
