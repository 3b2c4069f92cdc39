"""A load generator that counts every answer."""

import http.client
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self


class Load:
    """Asks an app again and again from a few threads while the `with` block runs; bounded in time."""

    def __init__(self, port: int, app: str, threads: int = 3, limit: float = 120.0) -> None:
        self._port = port
        self._host = f"{app}.localhost"
        self._until = time.monotonic() + limit
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self._lock = threading.Lock()
        self.statuses: Counter[object] = Counter()
        self.bodies: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more, and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set() and time.monotonic() < self._until:
            status, body = self._ask()
            with self._lock:
                self.statuses[status] += 1
                self.bodies[body] += 1
            self._stop.wait(0.005)

    def _ask(self) -> tuple[object, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request("GET", "/", headers={"Host": self._host})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, ""
        finally:
            connection.close()

    @property
    def failed(self) -> dict[object, int]:
        """Everything that was no 200, with its count."""
        return {status: n for status, n in self.statuses.items() if status != http.HTTPStatus.OK}
