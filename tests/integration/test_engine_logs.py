"""Logs of real containers: read, followed, and rotated while they are written."""

import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginelab import Lab, eventually, open_lab
from shipway.runtime.engine import Engine
from shipway.runtime.errors import InvalidSpec, NoLog, NoSuchContainer
from shipway.runtime.observability import rotation

# Writes numbers at full speed until it is told to end; the last line is how many there were.
COUNTER = """
import os, signal, sys
going = True
def end(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, end)
number = 0
while going:
    os.write(1, b"".join(b"%d\\n" % n for n in range(number, number + 200)))
    number += 200
os.write(1, b"total %d\\n" % number)
"""


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


def older(lab: Lab, name: str) -> list[str]:
    """The rotated files of a log, and what else lies beside it."""
    return sorted(path.name for path in lab.folder.glob(f"{name}.log.*"))


def check_count(lab: Lab, name: str) -> int:
    """See that the counter's numbers are all there, once and in order; how many."""
    lab.engine.stop(name)
    lines = [line.data for line in lab.engine.log(name).lines()]
    total = int(lines.pop().removeprefix(b"total "))
    assert lines == [b"%d\n" % number for number in range(total)]
    return total


def test_a_log_is_what_the_program_wrote(lab: Lab) -> None:
    """stdout and stderr come back byte for byte and told apart, also when nothing ends a line."""
    script = r"head -c 300000 /dev/urandom | tee /tmp/x; sha256sum </tmp/x >&2; printf 'no end'"
    lab.run("talk", "bash", "-c", script)
    lines = [line for line in lab.engine.follow("talk", lab.engine.log("talk")) if line]
    out = b"".join(line.data for line in lines if line.stream == "stdout")
    [error] = [line.data for line in lines if line.stream == "stderr"]
    import hashlib

    assert out.endswith(b"no end")
    assert hashlib.sha256(out.removesuffix(b"no end")).hexdigest().encode() == error.split()[0]
    assert abs(lines[-1].time / 1e9 - time.time()) < 60


def test_a_follower_ends_with_its_container(lab: Lab) -> None:
    """Lines come at once, and following ends when the container does; of an ended one at once."""
    lab.run("short", "sh", "-c", "echo one; sleep 0.3; echo two; printf rest; exit 3")
    seen = [
        (line.data, time.time())
        for line in lab.engine.follow("short", lab.engine.log("short"))
        if line
    ]
    assert [text for text, _ in seen] == [b"one\n", b"two\n", b"rest"]
    assert seen[1][1] - seen[0][1] > 0.2
    again = lab.engine.follow("short", lab.engine.log("short"))
    assert [line.data for line in again if line] == [b"one\n", b"two\n", b"rest"]


def test_a_container_without_a_log_says_so(lab: Lab) -> None:
    """No log and no container are errors by name; a bad size is refused before anything is made."""
    lab.run("mute", "true", log_path=None)
    with pytest.raises(NoLog, match="mute"):
        lab.engine.log("mute")
    with pytest.raises(NoSuchContainer):
        lab.engine.log("nobody")
    with pytest.raises(InvalidSpec, match="64 KiB"):
        lab.spec("mute", "true", log_size=1000)
    assert lab.engine.rotate_logs(["mute", "nobody"]) == []


def test_rotation_at_full_speed_loses_and_doubles_nothing(lab: Lab) -> None:
    """A writer at full speed, its log rotated all the while: every line is there once, for a follower too."""
    lab.run("fast", "python3", "-c", COUNTER)
    followed: list[bytes] = []
    reader = lab.engine.log("fast")

    def follow() -> None:
        followed.extend(line.data for line in lab.engine.follow("fast", reader) if line)

    thread = threading.Thread(target=follow)
    thread.start()
    for _ in range(30):
        eventually(lambda: lab.engine.rotate_logs(["fast"], 100_000, 1000))
    total = check_count(lab, "fast")
    assert total > 20_000
    thread.join(60)
    assert followed[:-1] == [b"%d\n" % number for number in range(total)]
    assert len(older(lab, "fast")) == 30


def test_only_so_many_older_files_stay(lab: Lab) -> None:
    """A container's own numbers hold: over log_size it is rotated, and log_files stay in all."""
    lab.run("loud", "python3", "-c", COUNTER, log_size=65536, log_files=3)
    for _ in range(5):
        eventually(lambda: lab.engine.rotate_logs() == ["loud"])
    assert older(lab, "loud") == ["loud.log.1", "loud.log.2"]
    eventually(lambda: lab.engine.rotate_logs(keep=0) == ["loud"])
    assert older(lab, "loud") == []
    lab.engine.stop("loud")
    lab.engine.rotate_logs(size=0)
    assert older(lab, "loud") == []


def test_a_small_log_is_left_alone(lab: Lab) -> None:
    """Nothing happens below the size, nor to a log whose container has ended."""
    lab.run("calm", "sh", "-c", "echo hello; sleep 60")
    eventually(lambda: lab.says("calm") == ["hello"])
    assert lab.engine.rotate_logs() == []
    assert lab.engine.rotate_logs(size=0) == ["calm"]
    lab.engine.stop("calm", 0)
    assert lab.engine.rotate_logs(size=0) == []
    assert older(lab, "calm") == ["calm.log.1"]
    assert [line.data for line in lab.engine.log("calm").lines()] == [b"hello\n"]


STEPS = [
    "observability.rotation:_move_up",
    "observability.rotation:_temporary",
    "observability.rotation:older_numbers",
    "observability.rotation:os.link",
    "observability.rotation:_reopen",
    "observability.rotation:os.write",
    "observability.rotation:_await_reopened",
    "observability.rotation:_is_over",
]


def test_a_rotation_killed_at_any_step_is_healed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rotates is killed at each step while lines are written; no line is lost or doubled."""
    monkeypatch.setattr(rotation, "IN_HAND", 0.1)
    lab.run("busy", "python3", "-c", COUNTER)
    for step in STEPS:
        for when in ("before", "after"):
            eventually(lambda: lab.log("busy").stat().st_size > 50_000)
            # A conmon that is quicker than the step leaves nothing to wait for: then once more.
            eventually(lambda at=(step, when): die_at(lab, *at) == signal.SIGKILL)
    for _ in range(2):
        lab.engine.rotate_logs(size=0, keep=1000)
    assert not rotation._is_under_way(lab.log("busy"))
    assert check_count(lab, "busy") > 10_000
    assert not lab.log("busy").with_suffix(".log.tmp").exists()


def die_at(lab: Lab, step: str, when: str) -> int:
    """Have a child rotate and be killed at a step; the signal it died of."""
    pid = os.fork()
    if pid == 0:
        try:
            module, _, path = step.partition(":")
            owner: Any = importlib.import_module(f"shipway.runtime.{module}")
            *parents, name = path.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            original = getattr(owner, name)

            def deadly(*args: Any) -> None:
                if when == "after":
                    original(*args)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(owner, name, deadly)
            Engine(lab.config).rotate_logs(["busy"], 0, 1000)
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def test_a_message_in_the_pipe_is_not_sent_twice(lab: Lab) -> None:
    """While conmon is stopped with the message unread, who heals waits for it: a second would cost lines."""
    lab.run("stuck", "sh", "-c", "trap : TERM; while :; do echo x; sleep 0.01; done")
    monitor = lab.engine.pidfds("stuck")[1]
    eventually(lambda: len(lab.says("stuck")) > 3)
    signal.pidfd_send_signal(monitor, signal.SIGSTOP)
    pid = os.fork()
    if pid == 0:
        rotation._await_reopened = lambda *_: os._exit(0)  # type: ignore[assignment]
        Engine(lab.config).rotate_logs(["stuck"], 0, 5)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    healer = threading.Thread(target=lambda: Engine(lab.config).rotate_logs(["stuck"], 0, 5))
    healer.start()
    healer.join(0.2)
    assert healer.is_alive()
    pipe = os.open(lab.config.run / "stuck/ctl", os.O_RDWR | os.O_NONBLOCK)
    assert rotation._unread(pipe) == len(rotation.REOPEN)
    os.close(pipe)
    signal.pidfd_send_signal(monitor, signal.SIGCONT)
    healer.join(10)
    os.close(monitor)
    assert older(lab, "stuck") == ["stuck.log.1"]


def test_a_flood_that_nobody_rotates_is_bounded(lab: Lab) -> None:
    """A log grows to a bound, however much is written; the program runs on, and rotation opens it again."""
    lab.run("flood", "python3", "-c", COUNTER, log_size=65536)
    limit = 65536 * rotation.HEADROOM
    eventually(lambda: lab.log("flood").stat().st_size == limit)
    lab.engine.rotate_logs()
    eventually(lambda: lab.log("flood").stat().st_size > 0)
    assert lab.engine.get("flood").state == "running"
    assert lab.engine.stop("flood", 20).code == 0
    assert max(path.stat().st_size for path in lab.folder.glob("flood.log*")) <= limit


def test_the_bound_is_the_logs_alone(lab: Lab) -> None:
    """The container's program has no limit on its files, and does not ignore what its monitor does."""
    check_unbounded(lab)


def check_unbounded(lab: Lab) -> None:
    """Start "plain" and have it tell of the limit on its files and of the signals it ignores."""
    lab.run("plain", "sh", "-c", "ulimit -f; grep SigIgn /proc/1/status; exec sleep 60")
    limit, ignored = eventually(lambda: len(said := lab.says("plain")) == 2 and said)
    assert limit == "unlimited"
    assert not int(ignored.split()[1], 16) & 1 << (signal.SIGXFSZ - 1)


def test_a_hundred_thousand_lines_are_all_there(lab: Lab) -> None:
    """Many lines at once from one container are neither lost nor held up, and a neighbour's neither."""
    lab.run("many", "seq", "100000")
    lab.run("other", "sh", "-c", "for n in 1 2 3 4 5; do echo $n; sleep 0.02; done")
    lines = [line.data for line in lab.engine.follow("many", lab.engine.log("many")) if line]
    assert lines == [b"%d\n" % number for number in range(1, 100001)]
    others = [line.data for line in lab.engine.follow("other", lab.engine.log("other")) if line]
    assert others == [b"%d\n" % number for number in range(1, 6)]


def test_a_terminal_sees_where_it_was_after_a_restart(lab: Lab) -> None:
    """A position taken in one process is good in another, after rotations meanwhile."""
    lab.run("long", "python3", "-c", COUNTER)
    reader = lab.engine.log("long")
    first = []
    for line in lab.engine.follow("long", reader):
        if line is not None:
            first.append(line.data)
        if len(first) == 5000:
            break
    position = reader.position
    for _ in range(3):
        eventually(lambda: lab.engine.rotate_logs(["long"], 50_000, 100))
    later = Engine(lab.config).log("long")
    later.resume(position)
    total = check_count(lab, "long")
    rest = [line.data for line in later.lines()]
    assert [*first, *rest[:-1]] == [b"%d\n" % number for number in range(total)]


def test_runc_bounds_its_log_alone_too(lab: Lab) -> None:
    """With runc as well, what conmon ignores and is limited to does not reach the program."""
    with open_lab("runclogs", runtime="runc") as other:
        check_unbounded(other)
        assert Path(f"/proc/{other.engine.get('plain').pid}").exists()
