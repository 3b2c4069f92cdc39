"""What people write on the command line: sizes, signals, mounts, durations, times."""

import signal
import time
from pathlib import Path

import pytest

from shipway.runtime.cli.listing import ago
from shipway.runtime.cli.moments import moment
from shipway.runtime.cli.running_limits import size
from shipway.runtime.cli.running_mounts import mount, tmpfs, volume
from shipway.runtime.cli.terminal import detach_keys
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.kernel.signals import signal_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10),
        ("4k", 4096),
        ("1.5m", 1572864),
        ("2G", 2 << 30),
        ("1gb", 1 << 30),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Docker's sizes, in bytes."""
    assert size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9", 9), ("KILL", 9), ("SIGHUP", 1), ("term", 15), ("RTMIN+3", signal.SIGRTMIN + 3)],
)
def test_signals(text: str, expected: int) -> None:
    """Signals by name, with or without SIG, and by number."""
    assert signal_number(text) == expected


def test_mounts(tmp_path: Path) -> None:
    """-v, --mount and --tmpfs in Docker's notations; a folder that is not there is to be made for -v."""
    bound = volume(f"{tmp_path}/new:/in:ro")
    assert (bound.source, bound.target, bound.readonly) == (f"{tmp_path}/new", "/in", True)
    assert bound.make
    bound = mount(f"type=bind,src={tmp_path},dst=/in,readonly")
    assert (bound.source, bound.target, bound.readonly, bound.kind) == (
        str(tmp_path),
        "/in",
        True,
        "bind",
    )
    memory = mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700")
    assert (memory.kind, memory.options) == ("tmpfs", ("size=1048576", "mode=700"))
    assert tmpfs("/t:size=1k,ro").options == ("size=1024",)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (size, "lots"),
        (size, "-1m"),
        (signal_number, "0"),
        (signal_number, "65"),
        (signal_number, "FOO"),
        (signal_number, "_IGN"),
        (volume, "/only"),
        (volume, "name:/in"),
        (volume, "/a:/b:maybe"),
        (mount, "type=volume,target=/x"),
        (mount, "colour=red"),
        (mount, "type=bind,target=/x"),
        (tmpfs, "/t:uid=0"),
        (detach_keys, "ctrl-pq"),
        (moment, "yesterday"),
    ],
)
def test_nonsense_is_refused(parse: object, text: str) -> None:
    """What cannot be meant is an error that names it."""
    with pytest.raises(InvalidSpec):
        parse(text)  # type: ignore[operator]


def test_times() -> None:
    """A time is so long ago, an ISO time or epoch seconds."""
    assert abs(time.time_ns() - moment("1h30m") - 5400 * 10**9) < 60 * 10**9
    assert moment("12.5") == 12_500_000_000
    assert moment("2026-11-24T10:00:00.123456789+00:00") == 1795514400_123456789


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (300, "5 minutes"),
        (3700, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_dockers_words(seconds: float, words: str) -> None:
    """ps speaks as Docker does."""
    assert ago(seconds) == words


def test_detach_keys() -> None:
    """Keys are characters, or ctrl- and a letter."""
    assert detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert detach_keys("ctrl-a,x") == b"\x01x"
