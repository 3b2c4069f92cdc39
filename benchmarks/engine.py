"""The engine's rows: containers of the library beside Docker Engine's and bare crun's, in one run."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import ours
from benchmarks.bench import Bench, Row, runs
from benchmarks.docker import BASE
from benchmarks.measure import descendants, pss, timed

from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange

IMAGE = "stack/debian-13:run"
MIB = 1 << 20
SLEEP = ("/bin/sleep", "600")
# A first process that ends at SIGTERM, so that stopping does not wait for the grace to be over.
OBEDIENT = ("/bin/sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait")
# How many starts are asked for at a time, and the seconds that one command of Docker's may take.
AT_ONCE = 20
TIME_LIMIT = 120.0
IMPORT_LIMIT = 0.1
STATS_LIMIT = 0.05


@dataclass
class Side:
    """One engine under test: `start` some containers at once, `count` those that run, `clear` them."""

    start: Callable[[Sequence[str], Sequence[str]], None]
    count: Callable[[Sequence[str]], int]
    clear: Callable[[Sequence[str]], None]

    @contextmanager
    def started(self, count: int, args: Sequence[str]) -> Iterator[tuple[list[str], float]]:
        """So many containers that run `args`, and the seconds their start took; gone at the end.

        Raises RuntimeError if one does not run then: a row is of all of them, or is none.
        """
        names = [f"e{uuid.uuid4().hex[:10]}" for _ in range(count)]
        try:
            taken = timed(lambda: self.start(names, args))
            if (up := self.count(names)) < count:
                raise RuntimeError(f"{up} of {count} containers run")
            yield names, taken
        finally:
            self.clear(names)


def our_side(engine: Engine) -> Side:
    """The library, one thread a container."""

    def one(name: str, args: Sequence[str]) -> None:
        engine.run(ContainerSpec(name, IMAGE, tuple(args), {}, IdRange(1 << 30)))

    def start(names: Sequence[str], args: Sequence[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(one, names, [args] * len(names)))

    def count(names: Sequence[str]) -> int:
        return sum(engine.get(name).state == "running" for name in names)

    def clear(names: Sequence[str]) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(engine.remove, names))

    return Side(start, count, clear)


def docker_side(bench: Bench) -> Side:
    """Docker's client, as many at once."""

    def docker(*args: str) -> str:
        return bench.docker.run(*args, timeout=TIME_LIMIT)

    def one(name: str, args: Sequence[str]) -> None:
        docker("run", "-d", "--name", name, BASE, *args)

    def start(names: Sequence[str], args: Sequence[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(one, names, [args] * len(names)))

    def count(names: Sequence[str]) -> int:
        up = docker("ps", "--format", "{{.Names}}").split()
        return len(set(up).intersection(names))

    def clear(_names: Sequence[str]) -> None:
        left = docker("ps", "-aq").split()
        for first in range(0, len(left), AT_ONCE):
            docker("rm", "-f", *left[first : first + AT_ONCE])

    return Side(start, count, clear)


def start_bare(bench: Bench) -> Row:
    """One container with network and monitor, against a bare `crun run` with neither."""
    engine = ours.engine_of(bench.platform)
    bundle = _bundle(bench, engine)
    mine = runs(partial(ours.container_start, engine, IMAGE), "shipway", 20)

    def crun() -> float:
        argv = ["crun", "run", "--bundle", str(bundle), f"bare{uuid.uuid4().hex[:8]}"]
        return timed(lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL))

    return bench.row("container-start-bare", "s", mine, runs(crun, "crun run", 20), "crun run", 4.0)


def _bundle(bench: Bench, engine: Engine) -> Path:
    bundle = bench.folder / "bundle"
    if not bundle.exists():
        bundle.mkdir(parents=True)
        subprocess.run(["crun", "spec"], cwd=bundle, check=True)
        path = bundle / "config.json"
        document = json.loads(path.read_text())
        [bottom, *_] = engine.images.get(IMAGE).layers
        document["root"] = {"path": str(engine.layers.path(bottom.diff_id)), "readonly": True}
        document["process"] |= {"args": ["/bin/true"], "terminal": False}
        path.write_text(json.dumps(document))
    return bundle


def start_20(bench: Bench) -> Row:
    """Twenty containers at once, until all run."""
    sides = our_side(ours.engine_of(bench.platform)), docker_side(bench)
    mine, peers = (
        runs(partial(_start_and_clear, side, 20), name)
        for side, name in zip(sides, ("shipway", "docker run -d"), strict=True)
    )
    return bench.row("container-start-20", "s", mine, peers, "docker run -d × 20", 0.2)


def _start_and_clear(side: Side, count: int) -> float:
    with side.started(count, SLEEP) as (_, taken):
        return taken


def stop_and_remove(bench: Bench) -> Row:
    """Stop a container whose program obeys SIGTERM, and remove it."""
    engine = ours.engine_of(bench.platform)
    us, them = our_side(engine), docker_side(bench)

    def mine() -> float:
        with us.started(1, OBEDIENT) as ([name], _):
            engine.execute_in(name, ("/bin/true",))  # the shell has set its trap by then
            return timed(lambda: (engine.stop(name), engine.remove(name)))

    def docker() -> float:
        with them.started(1, OBEDIENT) as ([name], _):
            bench.docker.run("exec", name, "/bin/true")
            return timed(lambda: (bench.docker.run("stop", name), bench.docker.run("rm", name)))

    peer = "docker stop + docker rm"
    return bench.row("container-stop", "s", runs(mine, "shipway"), runs(docker, peer), peer, 1.0)


def execute(bench: Bench) -> Row:
    """One more program in a running container."""
    engine = ours.engine_of(bench.platform)
    us, them = our_side(engine), docker_side(bench)
    with us.started(1, SLEEP) as ([mine], _), them.started(1, SLEEP) as ([theirs], _):
        taken = runs(lambda: timed(lambda: engine.execute_in(mine, ("/bin/true",))), "shipway", 20)
        peers = runs(
            lambda: timed(lambda: bench.docker.run("exec", theirs, "/bin/true")), "docker exec", 20
        )
    return bench.row("container-exec", "s", taken, peers, "docker exec", 1.0)


def idle_memory(bench: Bench) -> Row:
    """The engine at rest, with no container: there is no process, against dockerd and containerd."""
    engine = ours.engine_of(bench.platform)
    root = str(engine.config.root).encode()
    mine = runs(lambda: pss(_processes_of(root)) / MIB, "shipway")
    peers = runs(lambda: pss(descendants(bench.docker.pid())) / MIB, "dockerd + containerd")
    return bench.row("engine-idle-memory", "MiB", mine, peers, "dockerd + containerd", 0.0)


def _processes_of(root: bytes) -> list[int]:
    """Monitors and runtimes of an engine; the platform's own processes name another folder."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            line = (path / "cmdline").read_bytes() if path.name.isdigit() else b""
        except OSError:
            continue
        if root in line:
            found.append(int(path.name))
    return found


def start_200(bench: Bench) -> Row:
    """Two hundred containers at once on this machine, until all run."""
    us, them = our_side(ours.engine_of(bench.platform)), docker_side(bench)
    mine = runs(partial(_start_and_clear, us, 200), "shipway, 200")
    peers = runs(partial(_start_and_clear, them, 200), "docker run -d, 200")
    return bench.row("container-start-200", "s", mine, peers, "docker run -d × 200", 0.2)


def stats_200(bench: Bench) -> Row:
    """What 200 running containers use, read once by the library, against the limit set for it."""
    engine = ours.engine_of(bench.platform)
    with our_side(engine).started(200, SLEEP) as (names, _):
        mine = runs(lambda: timed(lambda: engine.stats(names)), "engine.stats of 200", 10)
    return bench.row("stats-200", "s", mine, [STATS_LIMIT], "the limit", 1.0)


def import_time(bench: Bench) -> Row:
    """Importing the library into a warm interpreter, against the limit set for it."""
    code = "import time; t = time.perf_counter(); import shipway.runtime.engine; print(time.perf_counter() - t)"

    def once() -> float:
        argv = [sys.executable, "-c", code]
        return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    return bench.row(
        "library-import", "s", runs(once, "import", 20), [IMPORT_LIMIT], "the limit", 1.0
    )


ROWS: dict[str, Callable[[Bench], Row]] = {
    "container-start-bare": start_bare,
    "container-start-20": start_20,
    "container-stop": stop_and_remove,
    "container-exec": execute,
    "engine-idle-memory": idle_memory,
    "container-start-200": start_200,
    "stats-200": stats_200,
    "library-import": import_time,
}
