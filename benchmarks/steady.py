"""A steady stream of requests, as a program: `python -m benchmarks.steady PORT HOST RATE SECONDS`.

Prints the 99th percentile of the seconds from when a request was due until its answer was read, so
that one which had to wait for those before it counts with its wait. Ends with 1 if any got no 200.
"""

import http.client
import math
import sys
import threading
import time
from collections.abc import Sequence

CONNECTIONS = 16
PERCENT = 99


def main() -> int:
    """Ask, and print what came out."""
    port, host, rate, seconds = sys.argv[1:]
    taken = ask(int(port), host, int(rate), float(seconds))
    if math.inf in taken:
        print(
            f"{taken.count(math.inf)} of {len(taken)} requests were not answered", file=sys.stderr
        )
        return 1
    print(percentile(taken))
    return 0


def ask(port: int, host: str, rate: int, seconds: float) -> list[float]:
    """Ask `GET /` so many times a second over kept connections; seconds of each, infinite if it failed."""
    count = int(rate * seconds)
    taken = [math.inf] * count
    begin = time.monotonic() + 0.1

    def one(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for number in range(first, count, CONNECTIONS):
            due = begin + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                connection.request("GET", "/", headers={"Host": host})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            if answer.status == http.HTTPStatus.OK:
                taken[number] = time.monotonic() - due

    threads = [threading.Thread(target=one, args=(first,)) for first in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def percentile(values: Sequence[float], percent: int = PERCENT) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


if __name__ == "__main__":
    sys.exit(main())
