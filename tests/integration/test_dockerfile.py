"""Dockerfiles built by the real buildah in real containers: what comes out, what is kept, what is out of reach."""

import contextlib
import http.server
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support
from shipway.buildpacks import dockerfile
from shipway.buildpacks.build import BuildRequest, BuildResult
from shipway.buildpacks.dockerfile import Recipe
from shipway.buildpacks.errors import BuildCancelled, BuildFailed, BuildTimedOut
from shipway.buildpacks.gate import Gate
from shipway.buildpacks.stacks import ensure_stack
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.images.store import Image
from shipway.runtime.spec import ContainerSpec, IdRange, Limits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

IDS = IdRange(2_100_000)
BASE = "FROM stack/debian-13:run\nUSER root\n"


class Builder:
    """An engine of its own, and short ways to build."""

    def __init__(self, folder: Path) -> None:
        bridge, subnet = support.network_names(__name__)
        self.folder = folder
        support.link_stack(folder / "root")
        self.engine = Engine(
            EngineConfig(folder / "root", folder / "run", bridge, subnet, bridge, bridge)
        )
        self.engine.setup()
        self.stack = ensure_stack(self.engine)
        self.lines: list[str] = []
        self._count = 0

    def request(self, files: dict[str, str], **changes: Any) -> BuildRequest:
        """A folder as a push leaves it, and what is asked of a build of it."""
        self._count += 1
        source = self.folder / "work" / str(self._count) / "source"
        source.mkdir(parents=True)
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(content)
        subprocess.run(["chown", "-hR", "1000:1000", source], check=True)
        request = BuildRequest(
            app="test",
            build_id=str(self._count),
            source=source,
            previous=None,
            stack=self.stack,
            ids=IDS,
            workdir=source.parent,
            limits=Limits(memory=512 << 20, pids=256, cpus=1.5),
            timeout=60,
            ref=f"app-1/build:{self._count}",
        )
        return replace(request, **changes)

    def build(
        self,
        files: dict[str, str],
        recipe: dict[str, Any] | None = None,
        stop: threading.Event | None = None,
        **changes: Any,
    ) -> BuildResult:
        """Build, with the lines kept; no container and nothing of the build's folder may be left."""
        self.lines = []
        request = self.request(files, **changes)
        wanted = Recipe(storage=self.folder / "root/storage", **(recipe or {}))
        try:
            return dockerfile.build(
                self.engine, request, wanted, self.lines.append, stop or threading.Event()
            )
        finally:
            assert not request.workdir.exists()
            assert self.engine.list() == []

    def failure(self, files: dict[str, str], **changes: Any) -> str:
        """The reason of a build that must fail, said in the log, without an image left."""
        before = self.engine.images.refs()
        with pytest.raises(BuildFailed) as error:
            self.build(files, **changes)
        after = self.engine.images.refs()
        assert {ref for ref in after if not ref.startswith("tool/")} == {
            ref for ref in before if not ref.startswith("tool/")
        }
        return error.value.reason

    def image(self, result: BuildResult) -> Image:
        return self.engine.images.get(result.image)

    def look(self, result: BuildResult, script: str) -> str:
        """What a shell in a container of the image prints."""
        out: list[bytes] = []
        spec = ContainerSpec(
            id="look", image=result.image, args=("sh", "-c", script), env={}, ids=IDS, user="0:0"
        )
        self.engine.execute(spec, out.append)
        return b"".join(out).decode()


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    """One builder for all tests of this file."""
    with support.scratch() as folder:
        found = Builder(folder)
        try:
            yield found
        finally:
            with contextlib.suppress(Exception):
                found.engine.teardown()


def test_what_a_dockerfile_says_is_what_comes_out(builder: Builder) -> None:
    """Stages, arguments, a target, .dockerignore, user and command: all as Docker has them."""
    files = {
        "Dockerfile": BASE.replace("\n", " AS base\n", 1)
        + "ARG WHO=nobody\nWORKDIR /srv\nCOPY . /srv\nRUN echo hello $WHO > made\n"
        "FROM base AS last\nUSER 1000\nENV A=b\nEXPOSE 8080\n"
        'ENTRYPOINT ["cat"]\nCMD ["made"]\nFROM base\nRUN false\n',
        ".dockerignore": "secret.txt\n",
        "secret.txt": "no",
        "kept.txt": "yes",
    }
    result = builder.build(
        files,
        {"target": "last", "arguments": {"WHO": "world"}},
        labels={"shipway.commit": "abc"},
    )
    image = builder.image(result)
    assert image.config.labels["shipway.commit"] == "abc"
    assert (image.config.user, image.config.working_dir) == ("1000", "/srv")
    assert image.config.exposed_ports == ("8080/tcp",)
    assert image.config.env["A"] == "b"
    assert json.loads(result.processes["web"]) == ["cat", "made"]
    assert builder.look(result, "cat /srv/made; ls /srv").split() == [
        *("hello", "world", "Dockerfile", "kept.txt", "made")
    ]
    assert set(result.phases) == {"bases", "build", "export"}
    assert any("STEP 1/" in line and line.startswith("-----> ") for line in builder.lines)


def test_a_second_build_does_only_what_changed(builder: Builder) -> None:
    """Steps are found again, cache mounts hold what was in them, and known layers are the same ones."""
    files = {
        "Dockerfile": BASE
        + "RUN --mount=type=cache,target=/c echo x >> /c/n; wc -l < /c/n > /count\n"
        + 'COPY app /app\nCMD ["cat", "/app"]\n',
        "app": "one",
    }
    first = builder.build(files)
    second = builder.build({**files, "app": "two"}, previous=first.image)
    assert sum("Using cache" in line for line in builder.lines) == 2
    assert builder.image(second).layers[:-1] == builder.image(first).layers[:-1]
    assert builder.look(second, "cat /count /app").split() == ["1", "two"]
    changed = {**files, "Dockerfile": files["Dockerfile"].replace("echo x", "echo  x")}
    assert builder.look(builder.build(changed), "cat /count").split() == ["2"]
    again = builder.build({**files, "app": "two"}, previous=second.image)
    assert builder.image(again).layers == builder.image(second).layers


def test_a_secret_is_there_for_its_step_and_nowhere_else(builder: Builder) -> None:
    """It is a file in memory: no layer, no history and no variable of the image holds it."""
    files = {
        "Dockerfile": BASE
        + "RUN --mount=type=secret,id=token grep -q '^s3.*value$' /run/secrets/token\n"
        + 'CMD ["true"]\n'
    }
    result = builder.build(files, secrets={"token": b"s3cr3t-value"})
    image = builder.image(result)
    for layer in image.layers[1:]:
        assert b"s3cr3t-value" not in builder.engine.images.blobs.path(layer.digest).read_bytes()
    assert "s3cr3t-value" not in json.dumps(builder.engine.images.document(image))
    assert "No such file" in builder.look(result, "cat /run/secrets/token 2>&1")


def test_a_step_is_walled_in(builder: Builder) -> None:
    """A step that is root is root of its container alone: no host, no other ids, no mounts, no devices."""
    files = {
        "Dockerfile": BASE
        + "RUN cat /proc/self/uid_map; mount -t tmpfs x /mnt 2>&1 || true\n"
        + "RUN unshare -U true 2>&1 || true; mknod /d b 8 0 2>&1 || true; ls /dev\n"
        + "RUN grep -c . /proc/1/mountinfo; ls /proc | grep -c '^[0-9]'; ls / \n"
        + 'CMD ["true"]\n'
    }
    builder.build(files)
    said = "\n".join(builder.lines)
    assert f"0    {IDS.base}      {IDS.size}" in said
    assert "mount: /mnt: permission denied" in said
    assert "unshare: unshare failed" in said
    assert "mknod: /d: Operation not permitted" in said
    assert "sda" not in said
    assert "vda" not in said


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"Dockerfile": BASE + "RUN exit 7\n"}, "exit status 7"),
        ({"Dockerfile": "\n"}, "Dockerfile is empty"),
        ({"Dockerfile": "FROM stack/debian-13:run\nNOPE x\n"}, "(?i)unknown instruction"),
        ({"Dockerfile": "FROM app-7/build:1\n"}, "an image of Shipway's own"),
        ({"Dockerfile": "FROM Bad_NAME::\n"}, "no reference of an image"),
        ({"Dockerfile": BASE + "COPY nothing /x\n"}, "nothing"),
        ({"other": "x"}, "no file Dockerfile in the app"),
        (
            {"Dockerfile": BASE + 'CMD ["x"]\n', "Procfile": "web\n"},
            "Procfile line 1: has no colon",
        ),
    ],
)
def test_what_cannot_be_built_says_why(
    builder: Builder, files: dict[str, str], reason: str
) -> None:
    """One exact line, and nothing is left."""
    assert re.search(reason, builder.failure(files))
    assert any(
        re.search(reason.removeprefix("(?i)"), line, re.IGNORECASE) for line in builder.lines
    )


def test_a_procfile_wins_over_cmd(builder: Builder) -> None:
    """The process types are those of the Procfile in the app's folder."""
    files = {"Dockerfile": BASE + 'CMD ["x"]\n', "Procfile": "web: serve\r\nworker: work\r\n"}
    assert builder.build(files).processes == {"web": "serve", "worker": "work"}


def test_a_registry_that_is_not_listed_is_not_asked(builder: Builder) -> None:
    """Base images come from registries that builds may reach, and from nowhere else."""
    reason = builder.failure(
        {"Dockerfile": "FROM registry.invalid/x\n"}, recipe={"may_pull": lambda _host: False}
    )
    assert reason.startswith("registry.invalid/x is in the registry registry.invalid, which builds")


def test_a_dockerfile_that_is_a_link_out_of_the_app_is_refused(builder: Builder) -> None:
    """Nothing of the host is read."""
    request = builder.request({})
    (request.source / "Dockerfile").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="a link out of the app"):
        dockerfile.build(
            builder.engine,
            request,
            Recipe(builder.folder / "root/storage"),
            print,
            threading.Event(),
        )


BREAKOUT = """\
import os
os.mkdir("/jail")
root = os.open("/", os.O_RDONLY)
os.chroot("/jail")
os.fchdir(root)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
print("around the step:", *sorted(os.listdir("/")))
for folder in ("/out", "/storage", "/context", "/bases"):
    try:
        os.symlink(TARGET, f"{folder}/oci-layout")
    except OSError as error:
        print(folder, error.strerror)
"""


def test_a_step_that_leaves_its_chroot_writes_nothing_on_the_host(builder: Builder) -> None:
    """It finds buildah's container, and in that nothing of what this host writes to or reads."""
    target = builder.folder / "of-the-host"
    files = {
        "Dockerfile": f'{BASE}COPY out.py /\nRUN ["python3", "/out.py"]\nCMD ["true"]\n',
        "out.py": f"TARGET = {os.fspath(target)!r}\n{BREAKOUT}",
    }
    builder.build(files)
    around = next(line for line in builder.lines if "around the step:" in line).split()
    if "storage" in around:  # it did get out, as is not possible with newer buildahs
        refused = [line.strip() for line in builder.lines if "Read-only file system" in line]
        assert [line.split()[0] for line in refused] == ["/context", "/bases"]
    assert "out" not in around
    assert not target.exists()


def test_limits_hold(builder: Builder) -> None:
    """Memory and time end a build with a line that names the limit."""
    eats = {"Dockerfile": BASE + "RUN python3 -c \"b'x' * (1 << 30)\"\n"}
    assert "exit status" in (reason := builder.failure(eats)) or "memory" in reason
    sleeps = {"Dockerfile": BASE + "RUN sleep 60\n"}
    with pytest.raises(BuildTimedOut, match="longer than 2 seconds"):
        builder.build(sleeps, timeout=2)


def test_a_cancel_ends_it_at_once_and_leaves_nothing(builder: Builder) -> None:
    """And the next build works."""
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(BuildCancelled):
        builder.build({"Dockerfile": BASE + "RUN sleep 60\n"}, stop=stop)
    assert time.monotonic() - start < 20
    assert builder.build({"Dockerfile": BASE + 'CMD ["true"]\n'}).processes


def test_a_build_behind_a_gate_reaches_the_hosts_that_are_named_and_nothing_else(
    builder: Builder,
) -> None:
    """There is no route, no name server, nothing to get around: only a proxy that knows names."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the-mirror-says-hello")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    said: list[str] = []
    allowed = f"127.0.0.1:{port}"
    gate = Gate(lambda where: where == allowed, {}, said.append)
    script = (
        f"RUN curl -s http://{allowed}/x; curl -s http://other.invalid/ ; curl -sk https://other.invalid/ ;"
        f" curl -sm 3 --noproxy '*' http://{allowed}/ || echo no-way-around; cat /proc/net/route | wc -l;"
        f" curl -s -p http://{allowed}/tunnel\n"
    )
    # Steps are told of the proxy by arguments that every Dockerfile has; 127.0.0.1 is no other's here.
    env = {**gate.env, "no_proxy": "x.invalid", "NO_PROXY": "x.invalid"}
    try:
        builder.build({"Dockerfile": BASE + script + 'CMD ["true"]\n'}, gate=gate, env=env)
    finally:
        gate.close()
        server.shutdown()
    lines = "\n".join(builder.lines)
    assert lines.count("the-mirror-says-hello") == 2
    assert "other.invalid is not among the hosts that builds may reach" in lines
    assert "no-way-around" in lines
    assert said == [" !     other.invalid is not among the hosts that builds may reach."]
