"""Logs: lines that a container writes as fast as it can, until all of them have been read."""

import itertools
import subprocess
import uuid
from collections.abc import Callable, Iterable

from benchmarks import ours
from benchmarks.bench import Bench, Row, runs
from benchmarks.docker import BASE
from benchmarks.engine import IMAGE, TIME_LIMIT
from benchmarks.measure import timed

from shipway.runtime.spec import ContainerSpec, IdRange

LINES = 500_000
# As long as a web server's, numbered, so that a line which is missing, doubled or cut shows.
FORM = "203.0.113.7 - - GET /a/page/of/the/site HTTP/1.1 200 5120 %07.0f"
WRITER = ("/usr/bin/seq", "-f", FORM, "1", str(LINES))


def logs_lines(bench: Bench) -> Row:
    """Lines a second from one container to who reads its log, against Docker's json-file driver."""
    engine = ours.engine_of(bench.platform)

    def mine() -> None:
        name = f"l{uuid.uuid4().hex[:10]}"
        spec = ContainerSpec(
            name, IMAGE, WRITER, {}, IdRange(1 << 30), log_path=engine.log_path(name)
        )
        engine.run(spec)
        try:
            engine.wait(name, TIME_LIMIT)
            check(line.data for line in engine.log(name).lines())
        finally:
            engine.remove(name)

    def docker() -> None:
        argv = ("run", "-d", "--log-driver", "json-file", BASE, *WRITER)
        name = bench.docker.run(*argv)
        try:
            bench.docker.run("wait", name, timeout=TIME_LIMIT)
            # Not followed: 20.10's follower ends with the container, whatever it has yet to read.
            reader = subprocess.Popen(bench.docker.argv("logs", name), stdout=subprocess.PIPE)
            with reader:
                assert reader.stdout
                check(reader.stdout)
        finally:
            bench.docker.run("rm", "-f", name)

    return bench.row(
        "logs-lines",
        "lines/s",
        runs(lambda: rate(mine), "shipway"),
        runs(lambda: rate(docker), "docker logs"),
        "docker, json-file",
        1.0,
        more_is_better=True,
    )


def rate(body: Callable[[], None]) -> float:
    """Lines a second, the start and the end of the container included."""
    return LINES / timed(body)


def check(lines: Iterable[bytes]) -> None:
    """Take all lines. Raises RuntimeError if one is missing, doubled, cut or out of its place."""
    number = 0
    for number, line in zip(itertools.count(1), lines, strict=False):
        if line != FORM.encode() % number + b"\n":
            raise RuntimeError(f"line {number} is {line!r}")
    if number != LINES:
        raise RuntimeError(f"{number} of {LINES} lines came")


ROWS: dict[str, Callable[[Bench], Row]] = {"logs-lines": logs_lines}
