"""What a build or deploy says: lines go to the database in batches, so that a talkative build costs few commits."""

import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from shipway.platform.applog import MAX_TEXT
from shipway.platform.store import Store, say

BATCH = 0.05  # seconds from one write to the next at least
RETRY = 0.5  # seconds until the next try when the database does not answer


class Console:
    """Takes lines from any thread; the first is written at once, those that follow quickly go together.

    `take` hands out what is not yet written, for a transaction that ends the work with it.
    """

    def __init__(self, store: Store, stream: str) -> None:
        self._store = store
        self._stream = stream
        self._lines: list[str] = []
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Say one line (without its newline)."""
        with self._wake:
            self._lines.append(text[:MAX_TEXT])
            self._wake.notify()

    def take(self) -> list[str]:
        """All lines that were said and not written yet; whoever takes them writes them.

        Not to be called inside a transaction: it waits for a write of ours that may be under way.
        """
        with self._writing, self._wake:
            taken, self._lines = self._lines, []
            return taken

    def close(self) -> None:
        """Write what is left, and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self._write()
            time.sleep(BATCH)
        self._write()

    def _wait(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._lines or self._closed)
            return not self._closed

    def _write(self) -> None:
        while self._try_to_write():
            if self._closed:
                return  # the work has ended; a database that is gone shall not hold its thread
            time.sleep(RETRY)

    def _try_to_write(self) -> bool:
        """Whether lines are left since the database did not answer."""
        with self._writing:
            with self._wake:
                lines = list(self._lines)
            if not lines:
                return False
            try:
                with self._store.transaction() as db:
                    say(db, self._stream, *lines)
            except SQLAlchemyError:
                return True
            with self._wake:
                del self._lines[: len(lines)]
            return False
