"""Measuring: medians, memory, and the time until something answers."""

import http.client
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

RUNS = 5


def timed(body: Callable[[], object]) -> float:
    """Seconds that `body` takes."""
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def median_of(body: Callable[[], float], runs: int = RUNS) -> float:
    """The median of what `body` returns in `runs` runs."""
    return statistics.median(body() for _ in range(runs))


def await_answer(
    host: str, port: int, name: str = "", want: str = "", timeout: float = 60.0
) -> float:
    """Ask `GET /` again and again until 200 comes with `want` in its body; seconds it took."""
    start = time.perf_counter()
    while time.perf_counter() - start < timeout:
        try:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request("GET", "/", headers={"Host": name or host})
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
            if response.status == http.HTTPStatus.OK and want in body:
                return time.perf_counter() - start
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.005)
    raise TimeoutError(f"{name or host}:{port} did not answer with {want!r} in {timeout:g} s")


def pss(pids: Iterable[int]) -> int:
    """Proportional set size of processes, together, in bytes."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(
            int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")
        )
    return total


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found
