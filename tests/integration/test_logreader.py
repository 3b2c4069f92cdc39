"""An app's log read as one stream, from real files and real inotify events."""

import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginelab import open_lab
from shipway.platform.errors import InvalidInput
from shipway.platform.logreader import LogReader, Wanted
from support import scratch

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An app's empty log folder."""
    with scratch() as path:
        yield path


def stamp(second: float) -> str:
    """A time so many seconds after the start, in nanoseconds as conmon writes it."""
    return (START + timedelta(seconds=second)).isoformat(timespec="microseconds")[:26] + (
        "000+00:00"
    )


def write(path: Path, data: str | bytes) -> None:
    """Append with one write, as the real writers do."""
    raw = data.encode() if isinstance(data, str) else data
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, raw)
    os.close(fd)


def out(
    folder: Path, name: str, second: float, text: str, tag: str = "F", to: str = "stdout"
) -> None:
    """A line of an instance."""
    write(folder / f"{name}.log", f"{stamp(second)} {to} {tag} {text}\n")


def ours(folder: Path, name: str, second: float, source: str, text: str) -> None:
    """A line of the platform or the router."""
    at = (START + timedelta(seconds=second)).isoformat(timespec="microseconds")
    write(folder / f"{name}.log", f"{at} {source}: {text}\n")


def texts(reader: LogReader, count: int = 1000) -> list[str]:
    """The texts of the last lines."""
    return [line.text for line in reader.last(count)]


def drained(reader: LogReader) -> list[str]:
    """The texts of all that is new."""
    return [line.text for batch in reader.new() for line in batch]


def test_files_are_merged_by_time(folder: Path) -> None:
    """Lines of instances, the router and the platform come in order of time, in the field's format."""
    out(folder, "web.1.7", 1, "one")
    out(folder, "web.2.8", 2, "two", to="stderr")
    ours(folder, "router", 3, "shipway[router]", "at=info")
    ours(folder, "platform", 0, "app[api]", "Release v1 created by user x")
    out(folder, "web.1.7", 4, "four")
    assert [str(line) for line in LogReader(folder).last(10)] == [
        "2026-11-23T12:00:00.000000+00:00 app[api]: Release v1 created by user x",
        "2026-11-23T12:00:01.000000+00:00 app[web.1]: one",
        "2026-11-23T12:00:02.000000+00:00 app[web.2]: two",
        "2026-11-23T12:00:03.000000+00:00 shipway[router]: at=info",
        "2026-11-23T12:00:04.000000+00:00 app[web.1]: four",
    ]


def test_a_writer_in_another_zone(folder: Path) -> None:
    """Time stamps with another offset are ordered and shown in UTC."""
    write(folder / "web.1.1.log", "2026-11-23T14:00:01.000000000+02:00 stdout F early\n")
    out(folder, "web.2.2", 2, "late")
    lines = LogReader(folder).last(2)
    assert [line.text for line in lines] == ["early", "late"]
    assert lines[0].time == "2026-11-23T12:00:01.000000+00:00"


def test_pieces_are_joined_by_stream(folder: Path) -> None:
    """Pieces of one line are joined even where the other stream's come between."""
    out(folder, "web.1.1", 1, "begin ", "P")
    out(folder, "web.1.1", 2, "err begin ", "P", "stderr")
    out(folder, "web.1.1", 3, "end")
    out(folder, "web.1.1", 4, "err end", "F", "stderr")
    assert texts(LogReader(folder)) == ["begin end", "err begin err end"]


def test_long_lines_are_split(folder: Path) -> None:
    """A line over 10,000 bytes becomes several, cut between characters, and nothing of it is lost."""
    whole = "ä" * 12_000
    raw = whole.encode()
    for at in range(0, len(raw), 8192):
        tag = b"F" if at + 8192 >= len(raw) else b"P"
        write(
            folder / "web.1.1.log",
            stamp(1).encode() + b" stdout " + tag + b" " + raw[at : at + 8192] + b"\n",
        )
    parts = texts(LogReader(folder))
    assert "".join(parts) == whole
    assert len(parts) == 3
    assert max(len(part.encode()) for part in parts) <= 10_000


def test_any_bytes_become_text(folder: Path) -> None:
    """Invalid UTF-8, NUL bytes, an empty line, a line of no known form and a half one do no harm."""
    path = folder / "web.1.1.log"
    write(path, f"{stamp(1)} stdout F \n".encode())
    write(path, f"{stamp(2)} stdout F ".encode() + b"\xff\xfe\0\x1b[2J\r\n")
    write(path, b"garbage\n")
    write(path, f"{stamp(3)} stdout F half".encode())
    assert texts(LogReader(folder)) == ["", "��\0\x1b[2J", "garbage"]


def test_last_lines_come_from_the_ends(folder: Path) -> None:
    """`last` gives exactly the newest lines over all files, also where they are far more than a window."""
    numbers = list(range(30_000))
    chosen = random.Random(1)
    for name in ("web.1.1", "web.2.2", "worker.1.3"):
        mine = [n for n in numbers if n % 3 == int(name[-1]) - 1]
        padding = "x" * chosen.randrange(5, 60)
        text = "".join(f"{stamp(n / 100)} stdout F {n} {padding}\n" for n in mine)
        (folder / f"{name}.log").write_text(text)
    reader = LogReader(folder)
    for count in (1, 10, 5_000, 30_000, 40_000):
        found = [int(text.split()[0]) for text in texts(reader, count)]
        assert found == numbers[-count:], count
    only = LogReader(folder, Wanted(process="web.2"))
    assert [int(text.split()[0]) for text in texts(only, 3)] == [29_992, 29_995, 29_998]


def test_filters(folder: Path) -> None:
    """Lines can be had by process, process type and source."""
    out(folder, "web.1.1", 1, "w1")
    out(folder, "web.2.2", 2, "w2")
    out(folder, "worker.1.3", 3, "k1")
    ours(folder, "platform", 4, "shipway[web.1]", "up")
    ours(folder, "router", 5, "shipway[router]", "at=info")
    cases = {
        ("web", None): ["w1", "w2", "up"],
        ("web.1", None): ["w1", "up"],
        ("web", "app"): ["w1", "w2"],
        ("router", None): ["at=info"],
        (None, "shipway"): ["up", "at=info"],
        (None, "app"): ["w1", "w2", "k1"],
        ("we", None): [],
    }
    for (process, source), expected in cases.items():
        assert texts(LogReader(folder, Wanted(process, source))) == expected, (process, source)


def test_a_follower_sees_lines_at_once(folder: Path) -> None:
    """What is written while one follows arrives within moments, from files that come later, too."""
    out(folder, "web.1.1", 1, "before")
    reader, seen = LogReader(folder), []
    arrived = threading.Event()
    assert texts(reader, 0) == []

    def follow() -> None:
        for batch in reader.follow(idle=30):
            seen.extend((line.text, time.monotonic()) for line in batch)
            if len(seen) == 2:
                arrived.set()
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    time.sleep(0.1)
    begun = time.monotonic()
    out(folder, "web.1.1", 2, "second")
    out(folder, "web.9.9", 3, "third")
    assert arrived.wait(5)
    assert [text for text, _ in seen] == ["second", "third"]
    assert seen[-1][1] - begun < 0.5


def test_an_idle_follower_is_told(folder: Path) -> None:
    """Without a line a follower hears so now and then, and ends once the folder is removed."""
    follower = LogReader(folder).follow(idle=0.05)
    assert next(follower) == []
    folder.rmdir()
    assert list(follower) == []


def test_a_prompt_without_an_end_appears(folder: Path) -> None:
    """A line that has not ended is given out after a moment, and its rest comes as a line of its own."""
    reader = LogReader(folder)
    reader.last(0)
    out(folder, "web.1.1", 1, "password: ", "P")
    follower = reader.follow(idle=30)
    assert [line.text for line in next(follower)] == ["password: "]
    out(folder, "web.1.1", 2, "thanks")
    assert [line.text for line in next(follower)] == ["thanks"]


def test_a_cursor_misses_and_repeats_nothing(folder: Path) -> None:
    """Following on from any cursor, by a new reader each time, gives every line exactly once."""
    chosen = random.Random(7)
    names = ["web.1.1", "web.2.2", "worker.1.3"]
    reader = LogReader(folder)
    reader.last(0)
    seen: list[str] = []
    written: list[str] = []
    halves: dict[str, str] = {}
    for step in range(400):
        name = chosen.choice(names)
        if name in halves:
            out(folder, name, step, "end")
            written.append(halves.pop(name) + "end")
        elif chosen.random() < 0.2:
            halves[name] = f"{step}-begin-"
            out(folder, name, step, halves[name], "P")
        else:
            out(folder, name, step, str(step))
            written.append(str(step))
        if chosen.random() < 0.02 and name not in halves and (folder / f"{name}.log").exists():
            (folder / f"{name}.log").rename(folder / f"{name}.log.{step}")  # a rotation
        if chosen.random() < 0.3:
            cursor = reader.cursor()
            reader = LogReader(folder)
            reader.resume(cursor)
        if chosen.random() < 0.3:
            seen += drained(reader)
    seen += drained(reader)
    assert sorted(seen) == sorted(written)


def test_a_cursor_is_short_and_opaque(folder: Path) -> None:
    """Files long quiet take no room in a cursor; a line added to one later is still seen, once."""
    for number in range(50):
        out(folder, f"web.1.{number}", number, f"old {number}")
        os.utime(folder / f"web.1.{number}.log", (START.timestamp(), START.timestamp() + number))
    out(folder, "web.1.99", 1_000_000, "new")
    reader = LogReader(folder)
    assert len(reader.last(100)) == 51
    cursor = reader.cursor()
    assert len(cursor) < 60
    out(folder, "web.1.3", 2_000_000, "late")
    out(folder, "web.1.99", 2_000_001, "later")
    later = LogReader(folder)
    later.resume(cursor)
    assert drained(later) == ["late", "later"]


@pytest.mark.parametrize("text", ["", "x", "1.", "2.0", "1.0.zz", "1.0." + "a" * 9, "1.0\n"])
def test_a_made_up_cursor_is_refused(folder: Path, text: str) -> None:
    """Text that is no cursor is an error that says so."""
    with pytest.raises(InvalidInput, match="no cursor"):
        LogReader(folder).resume(text)


def rotate(path: Path) -> None:
    """What the engine and conmon do, in their order: older ones move up, a second name, a new file."""
    if (old := path.with_name(f"{path.name}.1")).exists():
        old.rename(path.with_name(f"{path.name}.2"))
    os.link(path, old)
    (path.with_name(f"{path.name}.tmp")).touch()
    path.with_name(f"{path.name}.tmp").rename(path)


def test_a_file_of_two_names_is_read_once(folder: Path) -> None:
    """While a rotation is under way, a file has two names; its lines are given out once."""
    out(folder, "web.1.1", 1, "one")
    os.link(folder / "web.1.1.log", folder / "web.1.1.log.1")
    assert texts(LogReader(folder)) == ["one"]
    assert drained(LogReader(folder)) == ["one"]


def test_a_rotation_between_look_and_read(folder: Path) -> None:
    """A file that is renamed after it was looked at is still the one that is read, from where it was."""
    out(folder, "web.1.1", 1, "one")
    reader = LogReader(folder)
    assert texts(reader) == ["one"]
    out(folder, "web.1.1", 2, "two")
    looked = reader._files()
    rotate(folder / "web.1.1.log")
    for second in range(3, 9):
        out(folder, "web.1.1", second, f"later {second}")
    reader._files = lambda: looked  # type: ignore[method-assign]
    assert drained(reader) == ["two"]
    rotate(folder / "web.1.1.log")
    del reader._files  # type: ignore[method-assign]
    assert drained(reader) == [f"later {second}" for second in range(3, 9)]


def test_a_line_that_a_rotation_cuts_is_joined(folder: Path) -> None:
    """A line whose pieces lie in two files is one line, for who follows and who goes on from a cursor."""
    out(folder, "web.1.1", 1, "begin ", "P")
    reader = LogReader(folder)
    assert drained(reader) == []
    cursor = reader.cursor()
    rotate(folder / "web.1.1.log")
    out(folder, "web.1.1", 2, "end")
    out(folder, "web.1.1", 3, "more")
    later = LogReader(folder)
    later.resume(cursor)
    for each in (reader, later):
        assert drained(each) == ["begin end", "more"]
        assert drained(each) == []


def test_an_instance_rotated_at_full_speed(folder: Path) -> None:
    """Who follows an instance that writes without a pause, its log rotated all the while, sees each line once."""
    count = 150_000
    log = folder / "web.1.7.log"
    with open_lab(__name__) as lab:
        reader = LogReader(folder)
        script = "for n in $(seq 0 29); do seq $((n * 5000)) $((n * 5000 + 4999)); sleep 0.05; done"
        lab.run("web.1", "sh", "-c", script, log_path=log)
        seen: list[int] = []
        for batch in reader.follow(idle=0.05):
            lab.engine.rotate_logs(size=100_000, keep=1000)
            seen += [int(line.text) for line in batch if line.text.isdigit()]
            if len(seen) >= count:
                break
    assert seen == list(range(count))
    assert len(list(folder.glob("web.1.7.log.*"))) > 3


def test_a_file_that_begins_anew(folder: Path) -> None:
    """A file replaced or cut by a rotation is read from its start."""
    out(folder, "web.1.1", 1, "one")
    reader = LogReader(folder)
    assert texts(reader) == ["one"]
    (folder / "web.1.1.log").unlink()
    out(folder, "web.1.1", 2, "two")
    assert drained(reader) == ["two"]
    os.truncate(folder / "web.1.1.log", 0)
    out(folder, "web.1.1", 3, "three")
    assert drained(reader) == ["three"]
