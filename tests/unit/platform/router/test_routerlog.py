"""Request lines: their form, their codes, and dealing each out once whenever the process dies."""

import os
from pathlib import Path

import pytest

from shipway.platform import metrics
from shipway.platform.router import routerlog
from shipway.platform.router.haproxy_config import LOG_FIELDS
from shipway.platform.router.routerlog import Dealer, Request, code, parse, render

GOOD = Request(
    "1795478393242195", "one", "b1", "web.1/41", "GET", "200", "85", "0", "0", "1", "19", "--",
    "1.2.3.4", "one.localhost", "3cab29a7-145c-4012-83a3-724e987f1aaf", "/a", "?b=c",
)  # fmt: skip


def raw(number: int, app: str = "one") -> bytes:
    """A raw line of an app's request number so-and-so."""
    return ("\t".join(GOOD._replace(app=app, id=f"r{number}")) + "\n").encode()


def test_the_fields_of_the_format() -> None:
    """What HAProxy is told to write is what is read."""
    assert len(LOG_FIELDS) == len(Request._fields)


def test_a_line() -> None:
    """A request's line is that of the field."""
    assert render(GOOD) == (
        '2026-11-23T23:59:53.242195+00:00 shipway[router]: at=info method=GET path="/a?b=c"'
        " host=one.localhost request_id=3cab29a7-145c-4012-83a3-724e987f1aaf"
        ' fwd="1.2.3.4" dyno=web.1 connect=1ms service=18ms status=200 bytes=85 protocol=http\n'
    )


def test_a_line_without_an_instance() -> None:
    """Where no instance was asked the fields that would be about it are empty."""
    line = render(GOOD._replace(backend="H14", label="-", status="503", connecting="-1", end="LR"))
    assert 'at=error code=H14 desc="No web processes running" method=GET' in line
    assert "dyno= connect= service= status=503" in line


@pytest.mark.parametrize(
    ("end", "status", "expected"),
    [
        ("--", "200", None),
        ("--", "500", None),
        ("sC", "503", "H19"),
        ("SC", "503", "H21"),
        ("sQ", "503", "H11"),
        ("sH", "504", "H12"),
        ("SH", "502", "H13"),
        ("PH", "502", "H25"),
        ("PR", "400", "H26"),
        ("SD", "200", "H18"),
        ("SD", "101", None),
        ("sD", "200", "H15"),
        ("cD", "101", "H15"),
        ("cD", "-1", "H28"),
        ("CD", "200", None),
        ("CD", "-1", "H27"),
        ("CH", "-1", "H27"),
        ("CC", "-1", "H27"),
        ("KD", "200", "H24"),
        ("RC", "503", "H99"),
        ("IH", "500", "H99"),
    ],
)
def test_codes(end: str, status: str, expected: str | None) -> None:
    """Who ended a request, and in which phase, says the field's code."""
    assert code(GOOD._replace(end=end, status=status)) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Proxy router stopped.",
        b"\0" * 100 + raw(1),
        raw(1).replace(b"one\t", b"../x\t"),
        raw(1)[:40],
    ],
)
def test_what_is_no_request(line: bytes) -> None:
    """HAProxy's remarks, holes, and names that are none are passed over."""
    assert parse(line.rstrip(b"\n")) is None


def test_encoded_characters() -> None:
    """HAProxy's #XX for what could do harm becomes the URL's %XX."""
    assert 'path="/a%22%0A%23"' in render(GOOD._replace(path="/a#22#0A#23", query=""))


def lines(logs: Path, app: str) -> list[str]:
    """The request numbers in an app's log."""
    path = logs / app / "router.log"
    found = path.read_text().splitlines() if path.exists() else []
    return [line.split("request_id=")[1].split()[0] for line in found]


def deal(dealer: Dealer) -> None:
    """Deal out all there is."""
    while dealer.deal():
        pass


def test_each_app_gets_its_own(tmp_path: Path) -> None:
    """Lines go to their apps in order; a line that is not whole yet waits."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    file.write_bytes(raw(1) + raw(2, "two") + raw(3) + b"a remark\n" + raw(4)[:30])
    dealer = Dealer(file, logs)
    deal(dealer)
    assert (lines(logs, "one"), lines(logs, "two")) == (["r1", "r3"], ["r2"])
    with file.open("ab") as end:
        end.write(raw(4)[30:])
    deal(dealer)
    assert lines(logs, "one") == ["r1", "r3", "r4"]
    deal(Dealer(file, logs))
    assert lines(logs, "one") == ["r1", "r3", "r4"]


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("moment", range(1, 14))
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Killed at any write, whole or in part, the next process completes the batch without loss or repeat."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    monkeypatch.setattr(routerlog, "BATCH", 1500)
    file.write_bytes(b"".join(raw(n, ("one", "two", "three")[n % 3]) for n in range(40)))
    left = moment
    real_write, real_replace = os.write, routerlog.replace

    def write(fd: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            real_write(fd, data[: len(data) // 2])
            raise Killed
        return real_write(fd, data)

    def replace(path: Path, text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        real_replace(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(routerlog.os, "write", write)
        patch.setattr(routerlog, "replace", replace)
        with pytest.raises(Killed):
            deal(Dealer(file, logs))
    with file.open("ab") as end:
        end.write(raw(40, "two"))
    deal(Dealer(file, logs))
    for number, app in enumerate(("one", "two", "three")):
        expected = [f"r{n}" for n in range(40) if n % 3 == number]
        assert lines(logs, app) == expected + (["r40"] if app == "two" else [])


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails is made up for once there is room, in the same process."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    file.write_bytes(raw(1) + raw(2, "two"))
    dealer = Dealer(file, logs)

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(routerlog.os, "write", full)
        with pytest.raises(OSError, match="space"):
            deal(dealer)
    deal(dealer)
    assert (lines(logs, "one"), lines(logs, "two")) == (["r1"], ["r2"])


def test_the_raw_file_is_punched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been dealt out takes no room on the disk, while offsets and later lines stay right."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    monkeypatch.setattr(routerlog, "PUNCH", 1 << 16)
    dealer = Dealer(file, logs)
    for step in range(4):
        with file.open("ab") as end:
            end.write(b"".join(raw(n) for n in range(step * 1000, step * 1000 + 1000)))
        deal(dealer)
    status = file.stat()
    assert status.st_size > 300_000
    assert status.st_blocks * 512 < 150_000
    (tmp_path / "raw.dealt").unlink()  # as after a power cut: begins at what is left, not at zeros
    with file.open("ab") as end:
        end.write(raw(4000))
    again = tmp_path / "again"
    deal(Dealer(file, again))
    assert lines(again, "one")[-1] == "r4000"
    assert lines(logs, "one") == [f"r{n}" for n in range(4000)]


def test_emptied_by_hand(tmp_path: Path) -> None:
    """A raw file that somebody has emptied is read from its beginning."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    file.write_bytes(raw(1) + raw(2))
    dealer = Dealer(file, logs)
    deal(dealer)
    file.write_bytes(raw(3))
    deal(dealer)
    assert lines(logs, "one") == ["r1", "r2", "r3"]


def test_killed_while_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at every write in turn, each request is counted once."""
    file, logs = tmp_path / "raw", tmp_path / "logs"
    batch = b"".join(
        (
            "\t".join(GOOD._replace(app=f"a{n % 3}", id=f"r{n}", status=str(200 + n % 4 * 100)))
            + "\n"
        ).encode()
        for n in range(40)
    )
    real, left = os.pwrite, [0]

    def pwrite(*args: object) -> int:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(*args)  # type: ignore[arg-type]

    total = 0
    for survives in range(6):
        with open(file, "ab") as written:
            written.write(batch)
        total += 40
        left[0] = survives
        monkeypatch.setattr(os, "pwrite", pwrite)
        try:
            deal(Dealer(file, logs))
        except Killed:
            pass
        monkeypatch.setattr(os, "pwrite", real)
        deal(Dealer(file, logs))
        at = int(GOOD.time) / 1e6
        found = [metrics.read(logs / f"a{n}", at, 1)[0] for n in range(3)]
        assert sum(one.count for one in found) == total
        text = "".join((logs / f"a{n}" / "router.log").read_text() for n in range(3))
        assert text.count("\n") == total
    assert len(batch) < routerlog.BATCH
