"""A container's log read from files written as conmon writes them."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shipway.runtime.errors import InvalidPosition
from shipway.runtime.observability.logs import LONGEST, LogReader, nanoseconds

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Writer:
    """Writes a log, and rotates it, as conmon and the engine do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(self, text: bytes, stream: str = "stdout", tag: str = "F") -> None:
        """One record, a second after the one before."""
        self.count += 1
        stamp = (START + timedelta(seconds=self.count)).isoformat(timespec="microseconds")
        stamp = f"{stamp[:26]}000+00:00"
        os.write(self.fd, f"{stamp} {stream} {tag} ".encode() + text + b"\n")

    def rotate(self, keep: int = 9) -> None:
        """What rotation does, in its order."""
        for number in range(keep, 0, -1):
            old = Path(f"{self.path}.{number}")
            if old.exists():
                old.rename(f"{self.path}.{number + 1}")
        Path(f"{self.path}.{keep + 1}").unlink(missing_ok=True)
        os.link(self.path, f"{self.path}.1")
        os.close(self.fd)
        temporary = f"{self.path}.tmp"
        self.fd = os.open(temporary, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
        os.rename(temporary, self.path)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A new log."""
    made = Writer(tmp_path / "web.log")
    yield made
    os.close(made.fd)


def data(reader: LogReader, over: bool = False) -> list[bytes]:
    """What it gives out now."""
    return [line.data for line in reader.lines(over=over)]


def test_streams_and_times_are_told_apart(writer: Writer) -> None:
    """Each line comes with its stream and its time."""
    writer.say(b"one")
    writer.say(b"two", "stderr")
    first, second = LogReader(writer.path).lines()
    assert (first.stream, first.data) == ("stdout", b"one\n")
    assert (second.stream, second.data) == ("stderr", b"two\n")
    assert second.time - first.time == 10**9
    assert first.time == int(START.timestamp() + 1) * 10**9


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (b"1970-01-01T00:00:01.000000002+00:00", 10**9 + 2),
        (b"1970-01-01T01:00:01.000000002+01:00", 10**9 + 2),
        (b"yesterday", None),
        (b"", None),
    ],
)
def test_time_stamps_are_exact(stamp: bytes, expected: int | None) -> None:
    """A stamp is read to the nanosecond, in any zone; damaged ones are none."""
    assert nanoseconds(stamp) == expected


def test_pieces_are_joined_by_stream(writer: Writer) -> None:
    """A line in pieces is one line, also where the other stream comes between, and byte for byte."""
    writer.say(b"\xff\0be", tag="P")
    writer.say(b"err", "stderr")
    writer.say(b"gin \r\x1b[2J", tag="P")
    writer.say(b"", tag="F")
    writer.say(b"", "stderr")
    writer.say(b"tail", tag="P")
    reader = LogReader(writer.path)
    assert data(reader) == [b"err\n", b"\xff\0begin \r\x1b[2J\n", b"\n"]
    assert data(reader, over=True) == [b"tail"]


def test_a_line_without_end_is_given_out_in_parts(writer: Writer) -> None:
    """A line of megabytes does not stay in memory, and nothing of it is lost."""
    for _ in range(2 * LONGEST // 8192):
        writer.say(b"x" * 8192, tag="P")
    found = data(LogReader(writer.path), over=True)
    assert b"".join(found) == b"x" * (2 * LONGEST)
    assert len(found) == 2


def test_damaged_records_do_no_harm(writer: Writer) -> None:
    """Lines that are no records are shown, and a half record of a dead writer gives its text."""
    os.write(writer.fd, b"garbage\n\nxyz")
    os.write(writer.fd, b"2026\n2026-11-23T12:00:00.000000000+00:00 stdout F hal")
    reader = LogReader(writer.path)
    assert data(reader) == [b"garbage\n", b"xyz2026\n"]
    assert data(reader, over=True) == [b"hal\n"]
    assert data(reader, over=True) == []


def test_tail_gives_exactly_the_last_lines(writer: Writer) -> None:
    """The last lines come from the ends of the files, across rotations, whatever the number."""
    chosen = random.Random(3)
    expected = []
    for number in range(6000):
        text = b"%d " % number + b"x" * chosen.randrange(100)
        if chosen.random() < 0.1:
            writer.say(text, tag="P")
            writer.say(b"other", "stderr")
            expected.append(b"other\n")
            writer.say(b" end")
            text += b" end"
        else:
            writer.say(text)
        expected.append(text + b"\n")
        if number % 2000 == 1999:
            writer.rotate()
    for count in (0, 1, 10, 1500, 4000, len(expected), 99999):
        reader = LogReader(writer.path)
        reader.tail(count)
        assert data(reader) == expected[-count:] if count else data(reader) == [], count


def test_tail_does_not_read_it_all(writer: Writer) -> None:
    """The last lines of a huge log are had without reading the rest."""
    hole = 1 << 40
    writer.say(b"first")
    os.ftruncate(writer.fd, hole)
    os.write(writer.fd, b"\n")
    for number in range(1000):
        writer.say(b"%d" % number)
    reader = LogReader(writer.path)
    reader.tail(2)
    assert data(reader) == [b"998\n", b"999\n"]


def test_since_begins_at_a_time(writer: Writer) -> None:
    """Reading begins near the first line of a time, never behind it, in the right file."""
    for number in range(3000):
        writer.say(b"%d" % number + b"x" * 200)
        if number % 1000 == 999:
            writer.rotate()
    for wanted in (0, 1, 999, 1000, 1700, 2999):
        reader = LogReader(writer.path)
        time_ = int(START.timestamp() + wanted + 1) * 10**9
        reader.since(time_)
        lines = list(reader.lines())
        assert lines[0].time <= time_
        found = next(line for line in lines if line.time >= time_)
        assert found.data.startswith(b"%dx" % wanted)
        assert len(lines) < 3000 - wanted + 1000


def test_any_position_can_be_gone_on_from(writer: Writer) -> None:
    """A new reader at each line goes on exactly, through pieces, empty files and rotations."""
    chosen = random.Random(11)
    seen: list[bytes] = []
    written: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    open_: dict[str, bytes] = {}
    reader = LogReader(writer.path)
    for step in range(3000):
        stream = chosen.choice(["stdout", "stderr"])
        text = b"%d " % step
        if chosen.random() < 0.4:
            writer.say(text, stream, "P")
            open_[stream] = open_.get(stream, b"") + text
        else:
            writer.say(text, stream)
            written[stream].append(stream.encode() + open_.pop(stream, b"") + text + b"\n")
        if chosen.random() < 0.02:
            writer.rotate(keep=100)
        if chosen.random() < 0.3:
            for line in reader.lines(over=False):
                seen.append(line.stream.encode() + line.data)
                position = reader.position
                assert position.isascii()
                reader = LogReader(writer.path)
                reader.resume(position)
                break  # in the middle of what is there
    seen += [line.stream.encode() + line.data for line in reader.lines(over=False)]
    for stream, lines in written.items():
        assert [each for each in seen if each.startswith(stream.encode())] == lines


def test_a_position_in_a_file_that_is_gone(writer: Writer) -> None:
    """Who comes too late goes on with the oldest line there is, even if an inode is used again."""
    writer.say(b"old")
    reader = LogReader(writer.path)
    assert data(reader) == [b"old\n"]
    for number in range(4):
        writer.rotate(keep=1)
        writer.say(b"new %d" % number)
    assert data(reader) == [b"new 2\n", b"new 3\n"]
    late = LogReader(writer.path)
    late.resume("1-123.456.789")
    assert data(late) == [b"new 2\n", b"new 3\n"]


@pytest.mark.parametrize("text", ["", "1-", "2-1.1.1", "1-1.1", "1-1.1.1-x1.1.1", "1-1.1.1\n"])
def test_made_up_positions_are_refused(writer: Writer, text: str) -> None:
    """Text that is no position is an error that says so."""
    with pytest.raises(InvalidPosition, match="no position"):
        LogReader(writer.path).resume(text)


def test_a_rotation_under_way_is_seen_once(writer: Writer) -> None:
    """While a file has two names its lines are still read once."""
    writer.say(b"one")
    os.link(writer.path, f"{writer.path}.1")
    assert data(LogReader(writer.path)) == [b"one\n"]
    reader = LogReader(writer.path)
    reader.tail(5)
    assert data(reader) == [b"one\n"]


def test_a_follower_is_woken(writer: Writer) -> None:
    """Lines arrive as they are written, across a rotation, until the writing process is dead."""
    holder = subprocess.Popen(["sleep", "60"])
    end = os.pidfd_open(holder.pid)
    seen: list[tuple[bytes, float]] = []
    first = threading.Event()

    def follow() -> None:
        for line in LogReader(writer.path).follow(end):
            if line is not None:
                seen.append((line.data, time.monotonic()))
                first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    writer.say(b"one")
    assert first.wait(5)
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.1, "it polls"
    writer.rotate()
    writer.say(b"two")
    writer.say(b"prompt> ", tag="P")
    said = time.monotonic()
    while len(seen) < 2 and time.monotonic() < said + 5:
        time.sleep(0.001)
    assert seen[1][0] == b"two\n"
    assert seen[1][1] - said < 0.5
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    thread.join(5)
    os.close(end)
    assert [text for text, _ in seen] == [b"one\n", b"two\n", b"prompt> "]


def test_a_follower_is_told_of_silence(writer: Writer) -> None:
    """A None comes when that was all for now, and again in time; a dead writer ends it at once."""
    writer.say(b"one")
    end, _keep = os.pipe()
    following = LogReader(writer.path).follow(end, timeout=0.02)
    line = next(following)
    assert line is not None
    assert line.data == b"one\n"
    assert next(following) is None
    assert next(following) is None
    assert [line.data for line in LogReader(writer.path).follow(None) if line] == [b"one\n"]


def test_names_that_are_free_for_a_moment_hide_no_file(writer: Writer) -> None:
    """Rotations leave a name free while they move files; what lies further on is found all the same."""
    writer.say(b"old")
    writer.rotate()
    os.rename(f"{writer.path}.1", f"{writer.path}.4")
    writer.say(b"new")
    assert data(LogReader(writer.path)) == [b"old\n", b"new\n"]


def test_a_follower_at_full_speed_misses_nothing(writer: Writer) -> None:
    """Written and rotated as fast as can be, every line comes once and in order."""
    holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    end = os.pidfd_open(holder.pid)
    count = 30_000

    def write() -> None:
        for number in range(count):
            writer.say(b"%d" % number)
            if number % 300 == 299:
                writer.rotate(keep=200)
        holder.communicate()

    thread = threading.Thread(target=write)
    thread.start()
    found = [int(line.data) for line in LogReader(writer.path).follow(end) if line]
    thread.join()
    os.close(end)
    assert found == list(range(count))
