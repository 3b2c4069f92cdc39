"""Limits, stats and what kills for want of memory, on real containers; and the commands that look."""

import io
import json
import os
import re
import signal
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginelab import Lab, eventually, open_lab
from runtimecli import Terminal, argv, call, ok
from shipway.runtime.errors import InvalidSpec, LimitUnsupported
from shipway.runtime.kernel import limits
from shipway.runtime.spec import IoRate, Limits

MIB = 1 << 20
HUNGRY = "x = bytearray(200 << 20)"


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
    for path in module_lab.folder.glob("*.log*"):
        path.unlink()


def kernel_says(lab: Lab, name: str, *files: str) -> str:
    """The first of a control group's files that this kernel has."""
    for folder in lab.engine._tools.cgroups._folders(name):
        for file in files:
            if (folder / file).exists():
                return (folder / file).read_text().strip()
    pytest.fail(f"the container's control groups have none of {files}")


def disk_of(folder: Path) -> str:
    """The whole disk that a folder lies on, or a skip."""
    status = os.stat(folder)
    place = Path(f"/sys/dev/block/{os.major(status.st_dev)}:{os.minor(status.st_dev)}").resolve()
    if not place.is_dir():
        pytest.skip(f"{folder} lies on no disk")
    disk = place.parent if (place / "partition").exists() else place
    return f"/dev/{disk.name}"


@pytest.mark.parametrize(
    ("swap", "v1", "v2"),
    [(None, 64 * MIB, 0), (96 * MIB, 96 * MIB, 32 * MIB), (-1, 2**63 - 4096, "max")],
)
def test_memory_and_swap_are_limited_together(
    lab: Lab, swap: int | None, v1: int, v2: int | str
) -> None:
    """By default there is no swap beyond the memory; else as much as is asked for."""
    given = Limits(memory=64 * MIB, memory_swap=swap, memory_reservation=32 * MIB)
    lab.run("swapper", "sleep", "60", limits=given)
    assert kernel_says(lab, "swapper", "memory.max", "memory.limit_in_bytes") == str(64 * MIB)
    unified = lab.engine.info()["cgroups"] == "v2"
    found = kernel_says(lab, "swapper", "memory.swap.max", "memory.memsw.limit_in_bytes")
    assert found == str(v2 if unified else v1)
    found = kernel_says(lab, "swapper", "memory.low", "memory.soft_limit_in_bytes")
    assert found == str(32 * MIB)


def test_cpus_can_be_chosen(lab: Lab) -> None:
    """A container sees only the CPUs that it was given; ones that are not there are refused."""
    text = lab.python("import os; print(os.sched_getaffinity(0))", limits=Limits(cpuset_cpus="0"))
    assert text == "{0}\n"
    with pytest.raises(InvalidSpec, match="this machine has the CPUs"):
        lab.run("far", "true", limits=Limits(cpuset_cpus="0-4000"))
    assert lab.leftovers() == {}


def test_disks_are_limited(lab: Lab) -> None:
    """Rates and the weight are where the kernel reads them; a read is held to its rate."""
    disk = disk_of(lab.folder)
    rates = (IoRate(disk, "read", "bps", 1 << 30), IoRate(disk, "write", "iops", 5000))
    lab.run("io", "sleep", "60", limits=Limits(io_rates=rates))
    says = kernel_says(lab, "io", "io.max", "blkio.throttle.read_bps_device")
    assert str(1 << 30) in says
    says = kernel_says(lab, "io", "io.max", "blkio.throttle.write_iops_device")
    assert "5000" in says
    weight = Limits(io_weight=500)
    try:
        lab.run("weighed", "sleep", "60", limits=weight)
    except LimitUnsupported:
        with pytest.raises(LimitUnsupported, match=r"io_weight.*bfq"):
            limits.check(lab.engine._tools.cgroups, weight)
        return
    names = ("io.bfq.weight", "io.weight", "blkio.weight", "blkio.bfq.weight")
    assert re.search("500|4950", kernel_says(lab, "weighed", *names))


def test_a_disk_that_is_none_is_refused(lab: Lab) -> None:
    """A device that cannot be limited is an error by name, and nothing is left."""
    for device, words in (("/dev/null", "no disk"), ("/dev/nothing", "No such file")):
        with pytest.raises(InvalidSpec, match=words):
            lab.run("io", "true", limits=Limits(io_rates=(IoRate(device, "read", "bps", 1),)))
    assert lab.leftovers() == {}


def test_want_of_memory_in_a_child_is_not_the_containers_end(lab: Lab) -> None:
    """A child that was killed for want of memory is no such end when the program lives and is killed later."""
    small = Limits(memory=64 * MIB)
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HUNGRY!r}]); print('lives', flush=True); import time; time.sleep(60)"
    for name, end in (
        ("killed", lambda: lab.engine.kill("killed", signal.SIGKILL)),
        ("stopped", lambda: lab.engine.stop("stopped", 0.0)),
    ):
        lab.run(name, "python3", "-c", script, limits=small)
        eventually(lambda name=name: lab.says(name) == ["lives"])
        assert lab.engine._tools.cgroups.oom_kills(name) == 1
        end()
        ended = lab.engine.wait(name, 10)
        assert ended is not None
        assert (ended.code, ended.oom) == (137, False)
    lab.run("parent", "sh", "-c", f"python3 -c '{HUNGRY}'; exit 3", limits=small)
    ended = lab.engine.wait("parent", 20)
    assert ended is not None
    assert (ended.code, ended.oom) == (3, False)
    lab.run("itself", "python3", "-c", HUNGRY, limits=small)
    ended = lab.engine.wait("itself", 20)
    assert ended is not None
    assert (ended.code, ended.oom) == (137, True)


def test_stats_count_the_network_and_disks(lab: Lab) -> None:
    """What a container sends is counted as sent by it; what it writes through to disk as written."""
    code = """
import os, socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(200):
    sock.sendto(b"x" * 1000, ("192.0.2.1", 9))
fd = os.open("/tmp/file", os.O_WRONLY | os.O_CREAT, 0o600)
os.write(fd, b"x" * (4 << 20)); os.fsync(fd)
print("ready", flush=True)
time.sleep(60)
"""
    lab.run("sender", "python3", "-c", code, limits=Limits(memory=64 * MIB))
    lab.run("quiet", "sleep", "60")
    eventually(lambda: lab.says("sender") == ["ready"])
    found = lab.engine.stats(["sender", "quiet", "nobody"])
    assert set(found) == {"sender", "quiet"}
    assert 200_000 <= found["sender"].net_tx < 300_000
    assert found["quiet"].net_tx < 50_000
    assert found["sender"].memory_limit == 64 * MIB
    assert found["quiet"].memory_limit > 1 << 30
    assert found["quiet"].pids == 1
    on_disk = Path("/sys/dev/block") / "{}:{}".format(*divmod(os.stat(lab.folder).st_dev, 256))
    if on_disk.exists() or found["sender"].io_write:
        # cgroup v1 counts what a file system writes later to nobody; a journal's fsync is counted.
        assert found["sender"].io_write <= 64 * MIB


# -- the commands ----------------------------------------------------------------------------------


def test_logs_as_a_command(lab: Lab) -> None:
    """stdout and stderr come apart; the last lines, from a time on, with their times, byte for byte."""
    script = r"echo one; echo err >&2; sleep 0.3; echo two; printf 'bin\377\033[2J'"
    lab.run("talk", "sh", "-c", script)
    lab.engine.wait("talk", 10)
    done = call(lab, "logs", "talk", text=False)
    assert (done.stdout, done.stderr) == (b"one\ntwo\nbin\xff\x1b[2J", b"err\n")
    assert call(lab, "logs", "-n", "1", "talk", text=False).stdout == b"bin\xff\x1b[2J"
    assert ok(lab, "logs", "--tail", "2", "talk", errors="replace").startswith("two\n")
    stamped = call(lab, "logs", "-t", "talk", text=False).stdout.splitlines()
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z one", stamped[0])
    second = stamped[1].split()[0].decode()
    assert call(lab, "logs", "--since", second, "talk", text=False).stdout.startswith(b"two\n")
    assert call(lab, "logs", "--until", "10m", "talk", text=False).stdout == b""
    assert call(lab, "logs", "--since", "1h30m", "talk", text=False).stdout.startswith(b"one\n")
    now = f"{time.time() + 1:.3f}"
    assert call(lab, "logs", "--since", now, "talk", text=False).stdout == b""
    assert abs(datetime.fromisoformat(second).timestamp() - datetime.now(UTC).timestamp()) < 60


def test_logs_follow_until_the_end(lab: Lab) -> None:
    """-f shows lines as they come and ends with the container; with --until it ends by itself."""
    lab.run("ticks", "sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.2; done; exit 4")
    assert ok(lab, "logs", "-f", "ticks") == "1\n2\n3\n"
    lab.run("endless", "sh", "-c", "echo begun; sleep 60")
    terminal = Terminal(lab, "logs", "-f", "endless")
    terminal.expect("begun")
    assert terminal.process.poll() is None
    lab.engine.stop("endless", 0)
    assert terminal.wait() == 0
    lab.run("endless", "sh", "-c", "echo again; sleep 60")
    until = f"{time.time() + 1.5:.3f}"
    assert ok(lab, "logs", "-f", "--tail", "1", "--until", until, "endless") == "again\n"


WRONG = (
    (("logs", "nobody"), "nobody"),
    (("logs", "--since", "yesterday", "box"), "no time"),
    (("logs", "mute"), "keeps no log"),
    (("top", "ended"), "ended"),
    (("cp", "a", "b"), "one of SOURCE and DESTINATION"),
    (("cp", "box:/a", "mute:/b"), "one of SOURCE and DESTINATION"),
    (("cp", "box:", "/tmp"), "like web:/tmp"),
    (("cp", "box:/no/such", "/tmp"), "No such file"),
    (("cp", "/no/such", "box:/tmp"), "No such file"),
    (("rotate", "--size", "much"), "no size"),
    (("run", "--memory-swap", "1g", "IMAGE", "true"), "memory limit beside"),
)


def test_a_wrong_command_says_what_is_wrong(lab: Lab) -> None:
    """One line on stderr, a code, no traceback."""
    lab.run("box", "sleep", "60")
    lab.run("mute", "true", log_path=None)
    lab.run("ended", "true")
    lab.engine.wait("ended", 10)
    for args, words in WRONG:
        done = call(
            lab, *(lab.spec("x", "true").image if each == "IMAGE" else each for each in args)
        )
        assert done.returncode == (125 if args[0] == "run" else 1), args
        assert words in done.stderr, args
        assert len(done.stderr.splitlines()) == 1, args


def test_stats_top_and_diff_as_commands(lab: Lab) -> None:
    """Docker's columns for people, JSON for scripts."""
    script = "touch /tmp/made; while :; do :; done"
    lab.run("busy", "sh", "-c", script, limits=Limits(memory=64 * MIB))
    eventually(lambda: lab.engine.stats(["busy"])["busy"].cpu_usec > 100_000)
    head, line = ok(lab, "stats", "--no-stream").splitlines()
    assert re.split(r"\s{3,}", head) == [
        *("NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
    ]
    assert re.match(r"busy +\d+\.\d\d% +[\d.]+[KM]iB / 64MiB +\d\.\d\d% ", line)
    [found] = json.loads(ok(lab, "stats", "--no-stream", "--json", "busy"))
    assert (found["id"], found["pids"], found["memory_limit"]) == ("busy", 1, 64 * MIB)
    assert found["cpu_percent"] > 5
    terminal = Terminal(lab, "stats")
    for _ in range(2):
        terminal.expect("busy")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() == 130
    head, line = ok(lab, "top", "busy").splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert line.endswith("sh -c touch /tmp/made; while :; do :; done")
    assert line.split()[1] == str(lab.engine.get("busy").pid)
    assert ok(lab, "diff", "busy").splitlines() == ["C /tmp", "A /tmp/made"]
    assert json.loads(ok(lab, "diff", "--json", "busy"))[1] == {"kind": "A", "path": "/tmp/made"}


def test_cp_as_a_command(lab: Lab, tmp_path: Path) -> None:
    """Both ways, and as a tar on stdin and stdout."""
    lab.run("box", "sh", "-c", "echo inside >/tmp/file; echo ready; sleep 60")
    eventually(lambda: lab.says("box") == ["ready"])
    assert ok(lab, "cp", "box:/tmp/file", str(tmp_path)) == ""
    assert (tmp_path / "file").read_text() == "inside\n"
    ok(lab, "cp", "box:tmp/file", "renamed", cwd=tmp_path)
    (tmp_path / "renamed").write_text("back")
    ok(lab, "cp", "./renamed", "box:/tmp/", cwd=tmp_path)
    tar = call(lab, "cp", "box:/tmp/.", "-", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert sorted(archive.getnames()) == ["file", "renamed"]
    made = call(lab, "cp", "-", "box:/home", text=False, input=tar)
    assert made.returncode == 0, made.stderr
    assert "A /home/renamed" in ok(lab, "diff", "box").splitlines()


def test_rotate_as_a_command_and_options_of_logs(lab: Lab) -> None:
    """A container's log options hold, and cron can rotate all that have grown."""
    image = lab.spec("x", "true").image
    script = "i=0; while [ $i -lt 3000 ]; do echo a line that is fairly long, number $i; i=$((i+1)); done; sleep 60"
    options = ("--log-opt", "max-size=64k", "--log-opt", "max-file=3", "--memory-swap", "128m")
    args = ("-d", "--name", "loud", *options, "-m", "64m", image, "sh", "-c", script)
    assert ok(lab, "run", *args) == "loud\n"
    spec = lab.engine.spec("loud")
    assert (spec.log_size, spec.log_files, spec.limits.memory_swap) == (65536, 3, 128 * MIB)
    log = lab.engine.log_path("loud")
    eventually(lambda: log.stat().st_size > 65536)
    assert ok(lab, "rotate") == "loud\n"
    assert ok(lab, "rotate") == ""
    assert log.with_name(f"{log.name}.1").exists()
    eventually(lambda: ok(lab, "logs", "loud").count("\n") == 3000)
    assert "unknown" not in ok(lab, "logs", "-n", "1", "loud")
    done = call(lab, "run", "-d", "--log-driver", "none", "--name", "mute", image, "true")
    assert done.returncode == 0
    assert "keeps no log" in call(lab, "logs", "mute").stderr
    assert argv(lab)
