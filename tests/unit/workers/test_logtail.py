"""The last lines of an instance."""

from pathlib import Path

from shipway.workers.logtail import WINDOW, last_lines

STAMP = "2026-11-23T23:37:09.123456789+00:00"


def test_last_lines(tmp_path: Path) -> None:
    """The newest lines come without their stamps, and cut ones are put together."""
    path = tmp_path / "web.1.1.log"
    path.write_text(
        f"{STAMP} stdout F one\n{STAMP} stderr P tw\n{STAMP} stderr F o\n{STAMP} stdout F \n"
        f"{STAMP} stdout F  four\n"
    )
    assert last_lines(path, 3) == ("two", "", " four")


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    """A file of any length costs one look at its end."""
    path = tmp_path / "web.1.1.log"
    path.write_text("".join(f"{STAMP} stdout F {n:06}\n" for n in range(WINDOW // 20)))
    assert last_lines(path, 2)[-1] == f"{WINDOW // 20 - 1:06}"
    assert len(last_lines(path, 100_000)) < WINDOW // 40


def test_no_file_no_lines(tmp_path: Path) -> None:
    """An instance that never wrote has no last lines."""
    assert last_lines(tmp_path / "gone.log", 5) == ()
