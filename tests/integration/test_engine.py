"""The engine's verbs on real containers."""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginelab import IMAGE, Lab, eventually, open_lab
from shipway.runtime.engine import Engine
from shipway.runtime.errors import (
    Cancelled,
    ContainerExists,
    ContainerLost,
    EngineBusy,
    InvalidSpec,
    NoSuchContainer,
    NoSuchImage,
    StartFailed,
    TimedOut,
)
from shipway.runtime.spec import Limits, Mount, Overlay


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The engine, and a check that each test's containers leave nothing when removed."""
    yield module_lab
    module_lab.clear()


def test_a_container_runs_and_says_what_it_is(lab: Lab) -> None:
    """A started container is running, with a pid, an address, its labels and its times."""
    before = time.time()
    made = lab.engine.run(lab.spec("web.1", "sleep", "60", labels={"app": "hello"}))
    assert (made.id, made.state, made.exit) == ("web.1", "running", None)
    eventually(lambda: Path(f"/proc/{made.pid}/comm").read_text() == "sleep\n")
    assert made.ip.startswith("10.")
    assert made.labels == {"app": "hello"}
    assert made.image == IMAGE
    assert before - 1 < made.created_at <= made.started_at <= time.time()
    assert lab.engine.get("web.1") == made
    assert lab.engine.list() == [made]


def test_output_is_logged_with_time_and_stream(lab: Lab) -> None:
    """Each line of stdout and stderr is in the log file in the k8s-file format."""
    lab.run("talk", "sh", "-c", "echo out; echo err >&2; printf tail")
    assert lab.engine.wait("talk", 10) is not None
    rows = [line.split(" ", 3)[1:] for line in lab.log("talk").read_text().splitlines()]
    assert sorted(rows) == [["stderr", "F", "err"], ["stdout", "F", "out"], ["stdout", "P", "tail"]]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 0)]
)
def test_exit_codes_are_the_programs_own(lab: Lab, script: str, code: int) -> None:
    """wait() tells the exit code; a container's init does not die of its own signals."""
    lab.run("ends", "sh", "-c", script)
    ended = lab.engine.wait("ends", 10)
    assert ended is not None
    assert (ended.code, ended.oom) == (code, False)
    assert abs(time.time() - ended.at) < 10
    seen = lab.engine.get("ends")
    assert (seen.state, seen.pid, seen.exit) == ("stopped", 0, ended)


def test_a_signalled_container_exits_with_128_and_the_signal(lab: Lab) -> None:
    """SIGKILL from outside is 137, and not mistaken for want of memory."""
    lab.run("victim", "sleep", "60")
    lab.engine.kill("victim", signal.SIGKILL)
    ended = lab.engine.wait("victim", 10)
    assert ended is not None
    assert (ended.code, ended.oom) == (137, False)


def test_want_of_memory_is_told_apart(lab: Lab) -> None:
    """A container over its memory limit dies with oom set, and that is remembered."""
    limits = Limits(memory=32 * 1024 * 1024)
    lab.run("hungry", "python3", "-c", "x = bytearray(200 * 1024 * 1024)", limits=limits)
    ended = lab.engine.wait("hungry", 20)
    assert ended is not None
    assert (ended.code, ended.oom) == (137, True)
    assert Engine(lab.config).get("hungry").exit == ended


def test_wait_gives_up_after_its_timeout(lab: Lab) -> None:
    """wait() with a timeout answers None while the container runs."""
    lab.run("slow", "sleep", "60")
    assert lab.engine.wait("slow", 0.05) is None


def test_stop_lets_a_program_end_by_itself(lab: Lab) -> None:
    """SIGTERM comes first, and the program's own exit code is kept."""
    lab.run("polite", "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    eventually(lambda: lab.says("polite") == ["ready"])
    started = time.monotonic()
    assert lab.engine.stop("polite", 20).code == 7
    assert time.monotonic() - started < 5
    assert lab.engine.stop("polite").code == 7


def test_stop_kills_after_the_grace(lab: Lab) -> None:
    """A program that ignores SIGTERM is killed when its grace is over, with all its children."""
    lab.run("deaf", "sh", "-c", "trap '' TERM; sleep 61 & sleep 62 & echo ready; wait")
    eventually(lambda: lab.says("deaf") == ["ready"])
    started = time.monotonic()
    assert lab.engine.stop("deaf", 0.3).code == 137
    assert 0.3 <= time.monotonic() - started < 5
    assert lab.engine._tools.cgroups.members("deaf") == set()


def test_remove_is_idempotent_and_keeps_the_log(lab: Lab) -> None:
    """Removing a running, a removed or an unknown container works; only the log stays."""
    lab.run("gone", "sh", "-c", "echo bye; sleep 60")
    eventually(lambda: lab.says("gone") == ["bye"])
    for _ in range(2):
        lab.engine.remove("gone")
    lab.engine.remove("never-was")
    assert lab.says("gone") == ["bye"]
    assert lab.leftovers() == {}
    for verb in (lab.engine.get, lab.engine.wait, lab.engine.stop):
        with pytest.raises(NoSuchContainer, match="gone"):
            verb("gone")


def test_an_id_is_free_again_once_its_container_ended(lab: Lab) -> None:
    """A running container keeps its id; one that ended is replaced."""
    lab.run("same", "sleep", "60")
    with pytest.raises(ContainerExists, match="same"):
        lab.run("same", "sleep", "61")
    assert lab.engine.get("same").state == "running"
    lab.engine.stop("same", 0)
    lab.run("same", "sleep", "62")
    assert lab.engine.get("same").state == "running"


def test_a_failed_start_says_why_and_leaves_nothing(lab: Lab) -> None:
    """A program that is not there, an image that is not there, a bad mount: a clear error."""
    with pytest.raises(StartFailed, match="no-such-program"):
        lab.run("bad", "no-such-program")
    with pytest.raises(NoSuchImage):
        lab.engine.run(dataclasses.replace(lab.spec("bad", "x"), image="no/image"))
    with pytest.raises(InvalidSpec, match="/no/such/folder"):
        lab.run("bad", "true", mounts=(Mount("/no/such/folder", "/mnt"),))
    assert lab.leftovers() == {}


def test_very_short_programs_end_well(lab: Lab) -> None:
    """A program that ends before its start has returned is no failure."""
    for number in range(10):
        lab.run(f"short-{number}", "true")
    ends = [lab.engine.wait(f"short-{number}", 10) for number in range(10)]
    assert [ended.code for ended in ends if ended] == [0] * 10


def test_execute_hands_on_output_and_removes_everything(lab: Lab) -> None:
    """A foreground container gives all its output, byte for byte, and its exit code."""
    ended, text = lab.execute("sh", "-c", "echo out; echo err >&2; seq 100000; exit 5")
    assert ended.code == 5
    lines = text.splitlines()
    assert (sorted(lines[:2]), lines[-1], len(lines)) == (["err", "out"], "100000", 100002)
    assert lab.leftovers() == {}


def test_execute_gives_the_output_of_the_shortest_program(lab: Lab) -> None:
    """A program that is gone before anybody looks has still said what it said."""

    def say(number: int) -> str:
        chunks: list[bytes] = []
        lab.engine.execute(lab.spec(f"brief-{number}", "echo", str(number)), chunks.append)
        return b"".join(chunks).decode().strip()

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(say, range(40))) == [str(number) for number in range(40)]


def test_execute_can_be_cancelled(lab: Lab) -> None:
    """Setting the event ends the container at once, and nothing is left."""
    cancelled = threading.Event()

    def output(chunk: bytes) -> None:
        cancelled.set()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        lab.engine.execute(lab.spec("job", "sh", "-c", "echo go; sleep 60"), output, cancelled)
    assert time.monotonic() - started < 5
    assert lab.leftovers() == {}


def test_execute_ends_at_its_timeout(lab: Lab) -> None:
    """A foreground container that takes too long is ended, and nothing is left."""
    with pytest.raises(TimedOut):
        lab.engine.execute(lab.spec("job", "sleep", "60"), lambda chunk: None, timeout=0.3)
    assert lab.leftovers() == {}


def test_standard_input_is_empty(lab: Lab) -> None:
    """A program that reads its input sees the end of it at once."""
    ended, text = lab.execute("sh", "-c", "cat; echo end")
    assert (ended.code, text) == (0, "end\n")


def test_a_program_may_open_its_output_again(lab: Lab) -> None:
    """/dev/stdout and /dev/stderr can be opened by name, logged and in the foreground."""
    script = "echo one >/dev/stdout; echo two >/dev/stderr"
    assert sorted(lab.execute("sh", "-c", script)[1].split()) == ["one", "two"]
    lab.run("reopen", "sh", "-c", script)
    lab.engine.wait("reopen", 10)
    assert sorted(lab.says("reopen")) == ["one", "two"]


def test_execute_in_runs_beside_the_program(lab: Lab) -> None:
    """One more program runs as the container's user, with its environment and more."""
    lab.run("main", "sleep", "60", env={"A": "1", "B": "2"})
    chunks: list[bytes] = []
    command = ("sh", "-c", "echo $A $B; id -u; grep NoNewPrivs /proc/self/status; exit 4")
    ended = lab.engine.execute_in("main", command, {"B": "3"}, chunks.append)
    assert ended.code == 4
    assert b"".join(chunks).split() == [b"1", b"3", b"1000", b"NoNewPrivs:", b"1"]
    with pytest.raises(TimedOut):
        lab.engine.execute_in("main", ("sleep", "60"), timeout=0.3)
    eventually(lambda: lab.engine.stats(["main"])["main"].pids == 1)
    with pytest.raises(NoSuchContainer):
        lab.engine.execute_in("other", ("true",))


def test_limits_hold(lab: Lab) -> None:
    """Processes and open files are limited, and the control group tells the program so."""
    limits = Limits(memory=128 * 1024 * 1024, pids=20, nofile=64, cpus=0.5, cpu_shares=512)
    text = lab.python(
        """
        import os, resource, time
        print(*resource.getrlimit(resource.RLIMIT_NOFILE), *resource.getrlimit(resource.RLIMIT_CORE))
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except BlockingIOError:
            print("no more after", made)
        """,
        limits=limits,
    )
    assert text == "64 64 0 0\nno more after 19\n"


def test_file_limits_are_never_above_our_own(lab: Lab) -> None:
    """Asking for more open files than this machine grants gives what it grants."""
    text = lab.execute("sh", "-c", "ulimit -Hn", limits=Limits(nofile=10**9))[1]
    assert int(text) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_protection_from_the_memory_killer_is_the_engines_own(lab: Lab) -> None:
    """However well the kernel spares the engine, it may end a container, and what is run in one, as any program."""
    ours = Path("/proc/self/oom_score_adj")
    before = ours.read_text()
    with contextlib.suppress(PermissionError):  # where root lacks CAP_SYS_RESOURCE
        ours.write_text("-900")
    try:
        lab.run("main", "sh", "-c", "cat /proc/self/oom_score_adj; sleep 60")
        chunks: list[bytes] = []
        look = ("cat", "/proc/self/oom_score_adj")
        lab.engine.execute_in("main", look, output=chunks.append)
    finally:
        ours.write_text(before)
    ordinary = str(max(int(before), 0))
    assert b"".join(chunks).decode().split() == [ordinary]
    assert eventually(lambda: lab.says("main")) == [ordinary]


def test_stats_tell_use(lab: Lab) -> None:
    """Memory, CPU time and processes of running containers; unknown ones are left out."""
    lab.run("busy", "python3", "-c", "x = b'1' * 50_000_000\nwhile 1: pass")
    stats = eventually(
        lambda: (s := lab.engine.stats(["busy", "nobody"])) and s["busy"].cpu_usec > 300_000 and s
    )
    assert set(stats) == {"busy"}
    assert 50_000_000 < stats["busy"].memory < 100_000_000
    assert stats["busy"].pids == 1


def test_twenty_start_in_parallel(lab: Lab) -> None:
    """Parallel starts from threads all succeed, each with an address of its own."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: lab.run(f"p{number}", "sleep", "60"), range(20)))
    containers = lab.engine.list()
    assert {container.state for container in containers} == {"running"}
    assert len({container.ip for container in containers}) == 20
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: lab.engine.remove(f"p{number}"), range(20)))
    assert lab.leftovers() == {}


def test_one_id_is_started_once(lab: Lab) -> None:
    """Of parallel starts with the same id one succeeds, the others say so."""

    def attempt(_: int) -> bool:
        with contextlib.suppress(ContainerExists):
            lab.run("only", "sleep", "60")
            return True
        return False

    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(attempt, range(5))) == 1


def test_binds_show_the_containers_own_ids(lab: Lab) -> None:
    """What the app's user writes into a bind belongs to 1000 on disk; read-only is read-only."""
    shared, fixed = lab.folder / "shared", lab.folder / "fixed"
    for folder in (shared, fixed):
        folder.mkdir()
        os.chown(folder, 1000, 1000)
    (fixed / "note").write_text("hello")
    mounts = (
        Mount(str(shared), "/data"),
        Mount(str(fixed), "/fixed", readonly=True),
        Mount(str(fixed / "note"), "/note", readonly=True),
        Mount("", "/scratch", kind="tmpfs", options=("size=1m", "mode=1777")),
    )
    script = (
        "id -u >/data/new; cat /note /fixed/note; touch /fixed/no; touch /scratch/yes && echo ok"
    )
    _, text = lab.execute("sh", "-c", script, mounts=mounts)
    assert "hellohello" in text
    assert "Read-only file system" in text
    assert text.endswith("ok\n")
    assert (shared / "new").stat().st_uid == 1000
    assert not (fixed / "no").exists()


def test_overlays_collect_changes_with_the_containers_ids(lab: Lab) -> None:
    """An overlay shows its lower layers, top first, and keeps changes in its upper."""
    base = lab.folder / "layers"
    for name, text in (("top", "new"), ("bottom", "old")):
        (base / name).mkdir(parents=True)
        (base / name / "file").write_text(text)
        os.chown(base / name, 1000, 1000)
    (base / "rw").mkdir()
    for name in ("rw/upper", "rw/work"):
        (base / name).mkdir()
        os.chown(base / name, 1000, 1000)
    overlay = Overlay(
        "/layers", (base / "top", base / "bottom"), base / "rw/upper", base / "rw/work"
    )
    script = "cat /layers/file; echo mine >/layers/made; rm /layers/file; ls /layers"
    _, text = lab.execute("sh", "-c", script, overlays=(overlay,))
    assert text == "newmade\n"
    made = base / "rw/upper/made"
    assert (made.read_text(), made.stat().st_uid) == ("mine\n", 1000)
    assert (base / "rw/upper/file").is_char_device()
    assert (base / "top/file").read_text() == "new"


def test_a_readonly_root_still_has_a_tmp(lab: Lab) -> None:
    """With readonly_root nothing can be written but /tmp and /dev/shm."""
    script = "touch /home/x; touch /tmp/x /dev/shm/x && echo ok"
    root = {"user": "0:0", "capabilities": frozenset({"CAP_DAC_OVERRIDE"})}
    _, text = lab.execute("sh", "-c", script, readonly_root=True, **root)
    assert "Read-only file system" in text
    assert text.endswith("ok\n")


def test_containers_do_not_share_what_they_write(lab: Lab) -> None:
    """Each container has its own writable layer; the image stays as it is."""
    lab.run("writer", "sh", "-c", "echo secret >/tmp/mine; echo done; sleep 60")
    eventually(lambda: lab.says("writer") == ["done"])
    assert lab.execute("ls", "-A", "/tmp")[1] == ""


def test_a_dead_monitor_makes_a_container_lost(lab: Lab) -> None:
    """When conmon is killed the container is lost: stop and remove still end all of it."""
    lab.run("orphan", "sleep", "60")
    init, monitor = lab.engine.pidfds("orphan")
    signal.pidfd_send_signal(monitor, signal.SIGKILL)
    eventually(lambda: lab.engine.get("orphan").state == "lost")
    assert lab.engine.get("orphan").pid > 0
    with pytest.raises(ContainerLost):
        lab.engine.wait("orphan", 1)
    assert lab.engine.stop("orphan", 0).code == 137
    assert lab.engine.get("orphan").state == "stopped"
    for fd in (init, monitor):
        os.close(fd)


def test_the_engine_is_not_torn_down_under_containers(lab: Lab) -> None:
    """teardown() refuses while there is a container."""
    lab.run("resident", "sleep", "60")
    with pytest.raises(EngineBusy, match="resident"):
        lab.engine.teardown()


def test_containers_outlive_who_started_them(lab: Lab) -> None:
    """The starter's whole process group is killed; the container runs on, and others see it."""
    code = f"""
import os, signal
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange
engine = Engine(EngineConfig(**{vars(lab.config)!r}))
engine.run(ContainerSpec("child", {IMAGE!r}, ("sh", "-c", "while :; do echo tick; sleep 0.05; done"),
    {{}}, IdRange(300000), log_path=Path({str(lab.log("child"))!r})))
os.killpg(0, signal.SIGKILL)
"""
    code = code.replace("PosixPath", "Path")
    starter = subprocess.run([sys.executable, "-c", code], start_new_session=True, timeout=30)
    assert starter.returncode == -signal.SIGKILL
    assert Engine(lab.config).get("child").state == "running"
    ticks = len(lab.says("child"))
    eventually(lambda: len(lab.says("child")) > ticks + 2)


def test_runc_does_it_all_too(lab: Lab) -> None:
    """Where crun cannot be used, runc runs, executes, joins, stops and tells want of memory."""
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    with open_lab("runc", runtime="runc") as other:
        assert other.engine.info()["runtime"] == "runc"
        ended, text = other.execute("sh", "-c", "echo hello; unshare -U true; exit 3")
        assert (ended.code, text.splitlines()[0]) == (3, "hello")
        assert "Operation not permitted" in text
        other.run("main", "sleep", "60", env={"A": "1"})
        chunks: list[bytes] = []
        assert (
            other.engine.execute_in("main", ("sh", "-c", "echo $A; exit 4"), {}, chunks.append).code
            == 4
        )
        assert b"".join(chunks) == b"1\n"
        limits = Limits(memory=32 * 1024 * 1024)
        other.run("hungry", "python3", "-c", "x = bytearray(200 * 1024 * 1024)", limits=limits)
        ended = other.engine.wait("hungry", 20)
        assert ended is not None
        assert (ended.code, ended.oom) == (137, True)
        assert other.engine.stop("main", 0).code == 137
        with pytest.raises(StartFailed, match="no-such-program"):
            other.run("bad", "no-such-program")
        for name in ("main", "hungry"):
            other.engine.remove(name)
        assert other.leftovers() == {}


def test_a_program_can_be_joined_at_once(lab: Lab) -> None:
    """execute_in right after run() never comes too early."""

    def join(number: int) -> int:
        lab.run(f"fresh-{number}", "sleep", "60")
        return lab.engine.execute_in(f"fresh-{number}", ("true",)).code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(join, range(24))) == [0] * 24
