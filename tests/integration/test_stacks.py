"""The stack that is really made from Debian's packages, and what happens when it cannot be."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.buildpacks import debian, mirrors, stacks
from shipway.buildpacks.errors import StackFailed
from shipway.buildpacks.stacks import Stack, ensure_stack
from shipway.runtime.images.store import Stores
from support import STACK_CACHE, scratch


@pytest.fixture(scope="module")
def made() -> tuple[Stores, Stack]:
    """The stack all tests share, made if this is the first test that wants it."""
    stores = Stores.open(STACK_CACHE)
    return stores, ensure_stack(stores, output=lambda line: None)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with scratch() as path:
        yield Stores.open(path)


def inside(stores: Stores, ref: str, *command: str) -> str:
    """Run a command in a copy-on-write view of the image, without network."""
    lowers = [str(stores.layers.path(layer.diff_id)) for layer in stores.images.get(ref).layers]
    with scratch() as path:
        for name in ("upper", "work", "root"):
            (path / name).mkdir()
        script = (
            'mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" o "$2/root"; '
            'mount --rbind /dev "$2/root/dev"; mount -t proc proc "$2/root/proc"; '
            'root=$2/root; shift 2; exec chroot "$root" "$@"'
        )
        folders = [":".join(reversed(lowers)), str(path)]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--net"]
        done = subprocess.run(
            [*namespaces, "sh", "-euc", script, "x", *folders, *command],
            capture_output=True,
            text=True,
            env={"PATH": stacks.PATH, "LANG": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


def test_ready_stack_is_recognised_at_once(made: tuple[Stores, Stack]) -> None:
    """With the stack there, ensure_stack says nothing and takes less than 5 ms."""
    said: list[str] = []
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ensure_stack(made[0], output=said.append)
        times.append(time.perf_counter() - start)
    assert said == []
    assert sorted(times)[2] < 0.005


def test_layers_are_shared_and_whole(made: tuple[Stores, Stack]) -> None:
    """The build image is the run image with one more layer, and all bytes are as they were made."""
    stores, stack = made
    run, build = (stores.images.get(ref) for ref in (stack.run_image, stack.build_image))
    assert build.layers[:-1] == run.layers
    assert run.size < 175_000_000
    assert run.config.env["CNB_USER_ID"] == "1000"
    assert run.config.labels["io.buildpacks.base.distro.version"] == "13"
    stores.images.verify(stack.build_image)


def test_run_image(made: tuple[Stores, Stack]) -> None:
    """The run image has the app's user, UTF-8, certificates, a package database in order."""
    stores, stack = made
    script = (
        "id -un 1000; locale charmap; dpkg --audit; ls /dev /run /tmp /var/log; stat -c %u ~app"
    )
    told = inside(stores, stack.run_image, "bash", "-c", script).split()
    assert told[:2] == ["app", "UTF-8"]
    assert told[-1] == "1000"
    path = stores.layers.path(stores.images.get(stack.run_image).layers[0].diff_id)
    for name in ("etc/machine-id", "etc/resolv.conf", "var/log/dpkg.log", "var/lib/apt/lists/lock"):
        assert not (path / name).exists()
    assert list((path / "dev").iterdir()) == []
    assert (path / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000


def test_compiled_python_is_used(made: tuple[Stores, Stack]) -> None:
    """Python's library is not compiled again at every start, although its times are fixed."""
    stores, stack = made
    code = "import json, ssl, asyncio"
    told = inside(stores, stack.run_image, "python3", "-B", "-v", "-c", code)
    assert "json/__pycache__/decoder.cpython-313.pyc matches" in told
    assert "is stale" not in told
    assert "wrote" not in told


def test_build_image(made: tuple[Stores, Stack]) -> None:
    """The build image compiles a Python extension and has git and uv."""
    stores, stack = made
    script = (
        "cd /tmp; echo '#include <Python.h>\n#include <libpq-fe.h>\nint x;' > x.c; "
        "gcc -c $(pkg-config --cflags python3 libpq libffi openssl) x.c; ls x.o; "
        "git --version; uv --version; ls /etc/resolv.conf /usr/sbin/policy-rc.d 2>&1 || true"
    )
    told = inside(stores, stack.build_image, "bash", "-euc", script)
    assert told.startswith("x.o\ngit version")
    assert "\nuv " in told
    assert told.count("No such file") == 2


def test_unknown_stack(stores: Stores) -> None:
    """A stack that nobody knows is refused with those that there are."""
    with pytest.raises(
        StackFailed, match="no stack 'heroku-24'; there are debian-12 and debian-13"
    ):
        ensure_stack(stores, "heroku-24")


def test_no_disk(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little disk is said before anything is fetched, with what is needed."""
    monkeypatch.setattr(stacks, "DISK_NEEDED", 1 << 60)
    with pytest.raises(StackFailed, match=r"MB free, and making a stack needs"):
        ensure_stack(stores, output=lambda line: None)


def test_missing_tools(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing tool is named with the command that installs it."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StackFailed, match=r"apt-get install mmdebstrap mount util-linux"):
        ensure_stack(stores, output=lambda line: None)


def test_mirror_unreachable(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that does not answer is a clear error, and leaves nothing behind."""
    dead = ["deb http://127.0.0.1:9/debian trixie main"]
    monkeypatch.setattr(mirrors, "sources_for", lambda suite: dead)
    with pytest.raises(StackFailed, match="mirror could not be reached"):
        ensure_stack(stores, output=lambda line: None)
    assert stores.images.refs() == {}
    assert list((stores.layers.folder / ".staging").iterdir()) == []


def test_full_disk_is_told_apart() -> None:
    """A disk that fills up half-way is not blamed on the mirror."""
    with pytest.raises(StackFailed, match="no space is left"):
        debian._explain(["E: Failed to fetch x", "dpkg: No space left on device"], "x")


def test_killed_half_way(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 while packages are unpacked leaves no process, no mount, and nothing that counts."""
    script = """
import sys
from pathlib import Path
from shipway.buildpacks.stacks import ensure_stack
from shipway.runtime.images.store import Stores
ensure_stack(Stores.open(Path(sys.argv[1])), output=lambda line: print(line, flush=True))
"""
    root = stores.layers.folder.parent
    command = [sys.executable, "-c", script, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "extracting" in line or "installing" in line:
                break
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while users_of(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert users_of(root) == []
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert stores.images.refs() == {}
    monkeypatch.setattr("shipway.runtime.images.blobs.STALE", -1.0)
    stores.images.prune([], grace=-1)
    assert list((stores.layers.folder / ".staging").iterdir()) == []


def users_of(root: Path) -> list[str]:
    """Processes (other than this one) whose arguments or root folder lie below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
                place = os.readlink(entry / "root")
            except OSError:
                continue
            if str(root) in arguments or place.startswith(str(root)):
                found.append(arguments)
    return found


def test_mmdebstrap_is_here() -> None:
    """These tests are worth nothing without the real tool."""
    assert shutil.which("mmdebstrap")
