"""The builds' rows: four apps, built by us and by `docker build`, in one run and in turn."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import buildapps, dockerbuilds, ours
from benchmarks.bench import Bench, Row, runs
from benchmarks.buildapps import App, Files
from benchmarks.builder import Builder
from benchmarks.dockerbuilds import DockerBuilds
from benchmarks.measure import RUNS, descendants, pss, timed

from shipway.buildpacks.build import BuildResult

MIB = 1 << 20
STACK = "stack/debian-13:run"
APPS = ("flask", "express", "django", "static")
FIRST_RUNS = 3  # a first build takes long
FIRST_GOAL, CODE_GOAL, DEPENDENCY_GOAL, SIZE_GOAL = 0.4, 0.5, 0.4, 1.0
OWN_LIMIT = 0.25  # seconds of a code-only build that are not the buildpacks'
MEMORY_LIMIT = 40.0  # MiB
COMMANDS = ("detect", "build")  # the phases in which the buildpacks' commands run
LATENCY_GOAL = 1.5
RATE, SECONDS = 200, 5
OWNER = "1000:1000"
LOOK = 0.02  # seconds between two looks at the builder's memory


class Lab:
    """Both sides' builds, and the apps. An app that was built once stays warm for the rows after."""

    def __init__(self, bench: Bench) -> None:
        folder = bench.folder / "builds"
        settings = bench.platform.settings
        self.docker = DockerBuilds(bench.docker, folder / "docker", Path(settings.ca_bundle))
        self.folder = bench.platform.data / "bench"  # a build's folder is on the engine's disk
        self.setting = {
            "root": str(bench.platform.data / "runtime"),
            "run": str(bench.platform.data / "run" / "c"),
            "bridge": settings.bridge,
            "subnet": settings.subnet,
            "folder": str(self.folder),
            "ca": settings.ca_bundle if Path(settings.ca_bundle).exists() else "",
            "env": dict(settings.build_env),
            "limits": {
                "memory": settings.build_memory,
                "cpus": settings.build_cpus,
                "pids": settings.build_pids,
            },
        }
        self.builder = Builder(self.setting)
        self._made: dict[str, App] = {}
        self._warm: set[str] = set()
        self._added: dict[str, int] = {}

    def app(self, name: str) -> App:
        """The app of that name; its files are written once."""
        if name not in self._made:
            if name == "express":
                made = buildapps.express(self.docker.package_lists())
            else:
                made = {"flask": buildapps.flask, "django": buildapps.django}.get(
                    name, buildapps.static
                )()
            self._made[name] = made
            self.write(name, made.tree)
        return self._made[name]

    def write(self, tree: str, files: Files) -> None:
        """Write files into both sides' trees of that name; ours belongs to the app's user, as a push's does."""
        self.docker.write(tree, files)
        dockerbuilds.write(self.tree(tree), files)
        subprocess.run(["chown", "-R", OWNER, self.tree(tree)], check=True)

    def tree(self, name: str) -> Path:
        """Our side's tree."""
        return self.folder / "trees" / name

    def warm(self, name: str) -> App:
        """The app, built at least once by both."""
        app = self.app(name)
        if name not in self._warm:
            self.docker.build(app, name)
            self.builder.build(name, self.tree(name))
            self._warm.add(name)
        return app

    def change(self, name: str) -> None:
        """Change a line of the app's code."""
        self.write(name, self.warm(name).code(uuid.uuid4().hex))

    def add_dependency(self, name: str) -> None:
        """One more dependency than there are; when none is left, those added are taken out again."""
        lists = self.warm(name).lists
        self._added[name] = (self._added.get(name, 0) + 1) % len(lists)
        self.write(name, lists[self._added[name]])

    def cold(self, name: str) -> None:
        """Empty the peer's caches, which all of its apps share; our side's are each app's own."""
        self.docker.forget(name)
        self._warm.clear()

    def size(self, image: str) -> int:
        """Bytes of the image's files above the stack, as Docker counts them."""
        images, layers = self.builder.engine.images, self.builder.engine.layers
        base = len(images.get(STACK).layers)
        return sum(bytes_in(layers.path(each.diff_id)) for each in images.get(image).layers[base:])


@cache
def lab(bench: Bench) -> Lab:
    """One for all rows of a run."""
    return Lab(bench)


def in_turn(
    mine: Callable[[], float],
    peers: Callable[[], float],
    before: Callable[[], None] = lambda: None,
    count: int = RUNS,
) -> tuple[list[float], list[float]]:
    """Both sides in turn, after `before`, so that what the machine is busy with meets both."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(count):
        before()
        found[1].append(peers())
        found[0].append(mine())
        print(f"       ours {found[0][-1]:.3f}, peer {found[1][-1]:.3f}", flush=True)
    return found


def first(name: str, bench: Bench) -> Row:
    """A first build, with empty caches on both sides; base images are there."""
    both = lab(bench)
    app = both.app(name)

    def mine() -> float:
        try:
            return timed(lambda: both.builder.build("cold", both.tree(name)))
        finally:
            both.builder.forget("cold")

    def peers() -> float:
        both.cold(name)
        return both.docker.build(app, name, "--no-cache")

    found = in_turn(mine, peers, count=FIRST_RUNS)
    return bench.row(f"build-{name}-first", "s", *found, both.docker.name, FIRST_GOAL)


def code(name: str, bench: Bench) -> Row:
    """A build after a change of one line of code."""
    return _again(bench, name, "code", lambda both: both.change(name), CODE_GOAL)


def dependency(name: str, bench: Bench) -> Row:
    """A build after one more dependency."""
    return _again(
        bench, name, "dependency", lambda both: both.add_dependency(name), DEPENDENCY_GOAL
    )


def _again(bench: Bench, name: str, what: str, change: Callable[[Lab], None], goal: float) -> Row:
    both = lab(bench)
    app = both.warm(name)
    found = in_turn(
        lambda: timed(lambda: both.builder.build(name, both.tree(name))),
        lambda: both.docker.build(app, name),
        lambda: change(both),
    )
    return bench.row(f"build-{name}-{what}", "s", *found, both.docker.name, goal)


def own_work(name: str, bench: Bench) -> Row:
    """Of a build after a change of code, what is not the buildpacks' commands, against its limit."""
    both = lab(bench)

    def once() -> float:
        both.change(name)
        start = time.perf_counter()
        made = both.builder.build(name, both.tree(name))
        taken = beyond_commands(time.perf_counter() - start, made)
        phases.update(made.phases)
        return taken

    phases: dict[str, float] = {}
    mine = runs(once, "shipway, without the buildpacks' commands")
    print("       the last:", ", ".join(f"{name} {sec:.3f}" for name, sec in phases.items()))
    return bench.row(f"build-{name}-own", "s", mine, [OWN_LIMIT], "the limit", 1.0)


def bytes_in(folder: Path) -> int:
    """Bytes of the files and links below a folder, one with several names counted once."""
    found: dict[int, int] = {}
    for top, _, names in os.walk(folder):
        for name in names:
            about = os.lstat(os.path.join(top, name))
            found[about.st_ino] = about.st_size
    return sum(found.values())


def beyond_commands(taken: float, made: BuildResult) -> float:
    """Seconds of a build that took `taken` which are not those of bin/detect and bin/build."""
    return taken - sum(made.phases.get(phase, 0.0) for phase in COMMANDS)


def size(name: str, bench: Bench) -> Row:
    """The image's files above the stack that both start from, in uncompressed bytes."""
    both = lab(bench)
    app = both.warm(name)
    both.docker.build(app, name)
    mine = both.size(both.builder.build(name, both.tree(name)).image) / MIB
    peer = both.docker.size(name) / MIB
    return bench.row(f"build-{name}-size", "MiB", [mine], [peer], "a slim Dockerfile", SIZE_GOAL)


def four(bench: Bench) -> Row:
    """First builds of the four apps at once, until all are done."""
    both = lab(bench)
    apps = {name: both.app(name) for name in APPS}

    def mine() -> float:
        taken = timed(lambda: _at_once(lambda n: both.builder.build(f"c{n}", both.tree(n))))
        _at_once(lambda name: both.builder.forget(f"c{name}"))
        return taken

    def peers() -> float:
        for name in APPS:
            both.cold(name)
        return timed(lambda: _at_once(lambda n: both.docker.build(apps[n], n, "--no-cache")))

    found = in_turn(mine, peers, count=FIRST_RUNS)
    return bench.row("builds-four", "s", *found, f"{both.docker.name} × 4", FIRST_GOAL)


def _at_once(body: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(len(APPS)) as threads:
        list(threads.map(body, APPS))


def memory(bench: Bench) -> Row:
    """The most that the builder takes during a first build of Flask, without the buildpacks' commands.

    It is the process that builds, the container's monitor and the lifecycle in the container.
    """
    both = lab(bench)
    both.app("flask")

    def once() -> float:
        most = 0
        with _building(both, [both.tree("flask")], again=False) as process:
            while process.poll() is None:
                most = max(most, pss(_builders(process.pid)))
                time.sleep(LOOK)
        return most / MIB

    mine = runs(once, "the builder's memory")
    return bench.row("build-memory", "MiB", mine, [MEMORY_LIMIT], "the limit", 1.0)


def _builders(pid: int) -> list[int]:
    """The process that builds with what it has started, its build's monitor, the lifecycle below that."""
    found = set(descendants(pid))
    for path in Path("/proc").glob("[0-9]*"):
        line = _command(int(path.name))
        if b"conmon" in line and b"build-p" in line:
            found.update(
                each
                for each in (int(path.name), *descendants(int(path.name))[1:])
                if each == int(path.name) or b"lifecycle.driver" in _command(each)
            )
    return sorted(found)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def _building(
    both: Lab, trees: Sequence[Path], *, again: bool
) -> Iterator["subprocess.Popen[bytes]"]:
    """Builds of the trees, at once, in a process of their own that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.builder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    setting: dict[str, Any] = {**both.setting, "trees": [str(tree) for tree in trees]}
    process.stdin.write(json.dumps({**setting, "again": again}).encode() + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
    if process.returncode:
        raise RuntimeError("a build failed")


def latency(bench: Bench) -> Row:
    """The 99th percentile of a running app's answers with four builds running, against quiet."""
    both, app = lab(bench), "benchlatency"
    trees = [both.tree(name) for name in APPS if both.app(name)]
    platform = bench.platform
    platform.cli("apps:create", app)
    platform.push(platform.repo(app, ours.sample("quiet")))

    def steady() -> float:
        where = (str(platform.settings.router_port), f"{app}.localhost")
        argv = [sys.executable, "-m", "benchmarks.steady", *where, str(RATE), str(SECONDS)]
        return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    def busy() -> float:
        with _building(both, trees, again=True):
            return steady()

    steady()
    found = in_turn(busy, steady)
    return bench.row("latency-under-builds", "s", *found, "quiet (no build)", LATENCY_GOAL)


ROWS: dict[str, Callable[[Bench], Row]] = {
    # First those that empty the peer's caches: the others then find them filled.
    **{f"build-{name}-first": partial(first, name) for name in APPS},
    "builds-four": four,
    **{
        f"build-{name}-{what}": partial(body, name)
        for name in APPS
        for what, body in {
            "code": code,
            "own": own_work,
            "dependency": dependency,
            "size": size,
        }.items()
        if (name, what) != ("static", "dependency")
    },
    "build-memory": memory,
    "latency-under-builds": latency,
}
