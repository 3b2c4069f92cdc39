"""The rows of the table: each measures both sides in this run."""

import statistics
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import builds, engine, images, logs, ours, router
from benchmarks.bench import Bench, Row, runs
from benchmarks.docker import BASE
from benchmarks.measure import RUNS, await_answer, descendants, pss, timed
from tests.support import Platform

MIB = 1 << 20

DOCKERFILE = f"""\
FROM {BASE}
COPY requirements.txt /app/
RUN python3 -m venv /venv && /venv/bin/pip install -q -r /app/requirements.txt
WORKDIR /app
ENV PORT=5000
COPY . /app
CMD exec /venv/bin/gunicorn --bind 0.0.0.0:$PORT --threads 4 app:app
"""


def push_code_only(bench: Bench) -> Row:
    """A change of one line: until the new version answers."""
    app = "benchcode"
    bench.platform.cli("apps:create", app)
    bench.platform.push(bench.platform.repo(app, ours.sample("zero")))
    mine = runs(partial(ours.code_push, bench.platform, app), "git push")
    work = _docker_context(bench, "code")
    _docker_build(bench, work)
    peers = runs(partial(_docker_change, bench, work), "docker build + run")
    return bench.row("push-code-only", "s", mine, peers, "docker build (cached) + run", 0.7)


def push_first(bench: Bench) -> Row:
    """A new app of Flask and gunicorn, empty caches."""
    mine = runs(partial(ours.first_push, bench.platform), "git push")

    def build() -> float:
        work = _docker_context(bench, uuid.uuid4().hex[:8])
        bench.docker.run("builder", "prune", "-af")
        return timed(lambda: _docker_build(bench, work, "--no-cache"))

    return bench.row("push-first", "s", mine, runs(build, "docker build"), "docker build", 0.4)


def container_start(bench: Bench) -> Row:
    """One container with network and monitor: run, wait, remove."""
    engine = ours.engine_of(bench.platform)
    mine = runs(partial(ours.container_start, engine, "stack/debian-13:run"), "shipway", 20)
    peers = runs(
        lambda: timed(lambda: bench.docker.run("run", "--rm", BASE, "/bin/true")), "docker run", 10
    )
    return bench.row("container-start", "s", mine, peers, "docker run --rm", 0.2)


def scale_20(bench: Bench) -> Row:
    """One to twenty instances of a tiny server, all answering."""
    code = "import http.server as h, os; h.HTTPServer(('', int(os.environ.get('PORT', 5000))), h.SimpleHTTPRequestHandler).serve_forever()"
    platform, app = bench.platform, "benchscale"
    platform.cli("apps:create", app)
    files = {"Procfile": "web: python3 server.py\n", "server.py": code, "requirements.txt": ""}
    platform.push(platform.repo(app, files))

    def scale() -> float:
        taken = timed(lambda: platform.cli("ps:scale", app, "web=20"))
        platform.cli("ps:scale", app, "web=1")
        folder = platform.data / "runtime" / "containers"
        while sum(1 for _ in folder.iterdir()) > len(_apps(platform)):
            time.sleep(0.1)
        return taken

    def docker() -> float:
        argv = bench.docker.argv("run", "-d", BASE, "python3", "-c", code)

        def start() -> None:
            import subprocess

            started = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(20)]
            names = [process.communicate()[0].decode().strip() for process in started]
            form = "{{.NetworkSettings.IPAddress}}"
            for address in bench.docker.run("inspect", "-f", form, *names).split():
                await_answer(address, 5000)

        taken = timed(start)
        _docker_clear(bench)
        return taken

    mine = runs(scale, "ps:scale web=20")
    return bench.row("scale-20", "s", mine, runs(docker, "20 × docker run"), "docker run × 20", 0.2)


def _apps(platform: Platform) -> list[object]:
    return [i for app in platform.json("apps") for i in platform.json("ps", app["name"])]


def router_throughput(bench: Bench) -> Row:
    """Requests through the router with 10,000 apps loaded, against the better of two plain proxies."""
    folder = bench.folder / "router"
    with router.sides(folder) as ports:
        found = router.in_turn(folder, ports, RUNS)
    mine = found.pop("shipway")
    peer = max(found, key=lambda name: statistics.median(found[name]))
    return bench.row(
        "router-throughput", "req/s", mine, found[peer], f"plain {peer}", 0.95, more_is_better=True
    )


def platform_idle_memory(bench: Bench) -> Row:
    """All processes of the platform at rest, against dockerd and containerd at rest."""
    mine = runs(lambda: ours.idle_memory(bench.platform) / MIB, "shipway")
    peers = runs(lambda: pss(descendants(bench.docker.pid())) / MIB, "dockerd + containerd")
    return bench.row("platform-idle-memory", "MiB", mine, peers, "dockerd + containerd", 1.0)


def instance_memory(bench: Bench) -> Row:
    """What a running container costs beside its own processes."""
    from shipway.runtime.spec import ContainerSpec, IdRange

    engine = ours.engine_of(bench.platform)
    count = 10

    def mine() -> float:
        names = [f"m{uuid.uuid4().hex[:8]}" for _ in range(count)]
        for name in names:
            spec = ContainerSpec(
                id=name,
                image="stack/debian-13:run",
                args=("/bin/sleep", "600"),
                env={},
                ids=IdRange(1 << 30),
            )
            engine.run(spec)
        monitors = [p for name in names for p in _processes_named(b"conmon", name.encode())]
        taken = pss(monitors) / count / MIB
        for name in names:
            engine.remove(name)
        return taken

    def docker() -> float:
        names = [
            bench.docker.run("run", "-d", "-p", "127.0.0.1::80", BASE, "sleep", "600")
            for _ in range(count)
        ]
        shims = [p for name in names for p in _processes_named(b"containerd-shim", name.encode())]
        proxies = _processes_named(b"docker-proxy", b"")
        taken = pss([*shims, *proxies]) / count / MIB
        _docker_clear(bench)
        return taken

    peer = "containerd-shim + docker-proxy"
    return bench.row("instance-memory", "MiB", runs(mine, "conmon"), runs(docker, peer), peer, 0.25)


def platform_start(bench: Bench) -> Row:
    """Warm start until a push would be taken, against dockerd until it answers."""
    mine = runs(partial(ours.start, bench.platform), "shipway up")

    def docker() -> float:
        bench.docker.stop()
        return bench.docker.start()

    return bench.row("platform-start", "s", mine, runs(docker, "dockerd"), "dockerd", 2.0)


def _processes_named(program: bytes, argument: bytes) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        try:
            line = (path / "cmdline").read_bytes() if path.name.isdigit() else b""
        except OSError:
            continue
        if program in line.split(b"\0", 1)[0] and argument in line:
            found.append(int(path.name))
    return found


def _docker_context(bench: Bench, version: str) -> Path:
    work = bench.folder / f"context-{version}"
    work.mkdir(parents=True)
    (work / "Dockerfile").write_text(DOCKERFILE)
    for name, text in ours.sample(version).items():
        (work / name).write_text(text)
    return work


def _docker_build(bench: Bench, work: Path, *options: str) -> None:
    ca = Path(bench.platform.settings.ca_bundle)
    extra: list[str] = []
    if ca.exists():  # what the machine needs to reach its package index, as our builds get it
        (work / "ca.crt").write_bytes(ca.read_bytes())
        text = DOCKERFILE.replace("RUN ", "COPY ca.crt /ca.crt\nENV PIP_CERT=/ca.crt\nRUN ", 1)
        (work / "Dockerfile").write_text(text)
    bench.docker.run("build", "-q", *options, *extra, "-t", "bench-app", str(work))


def _docker_change(bench: Bench, work: Path) -> float:
    version = uuid.uuid4().hex[:10]
    (work / "app.py").write_text(ours.sample(version)["app.py"])

    def once() -> None:
        _docker_build(bench, work)
        name = bench.docker.run("run", "-d", "bench-app")
        form = "{{.NetworkSettings.IPAddress}}"
        await_answer(bench.docker.run("inspect", "-f", form, name), 5000, want=version)

    taken = timed(once)
    _docker_clear(bench)
    return taken


def _docker_clear(bench: Bench) -> None:
    if left := bench.docker.run("ps", "-aq").split():
        bench.docker.run("rm", "-f", *left)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "push-code-only": push_code_only,
    "push-first": push_first,
    "container-start": container_start,
    "scale-20": scale_20,
    "router-throughput": router_throughput,
    "platform-idle-memory": platform_idle_memory,
    "instance-memory": instance_memory,
    "platform-start": platform_start,
    **engine.ROWS,
    **images.ROWS,
    **logs.ROWS,
    **builds.ROWS,
}
