"""The build's output as safe lines."""

from shipway.buildpacks import lines


def told(*pieces: bytes) -> tuple[list[str], lines.LineWriter]:
    out: list[str] = []
    writer = lines.LineWriter(out.append)
    for piece in pieces:
        writer.feed(piece)
    writer.close()
    return out, writer


def test_cut_anywhere() -> None:
    """Lines come whole, wherever the pieces were cut, and the last needs no line end."""
    assert told(b"one\ntw", b"o \xc3", b"\xa9\n\nthree")[0] == ["one", "two é", "", "three"]


def test_control_characters() -> None:
    """What would move a terminal's cursor is gone; colours and tabs stay; bad bytes are shown."""
    raw = b"\x1b[31mred\x1b[0m\tx\x1b[2J\x1b]0;title\x07y\x07\x00 \xff\r\n"
    assert told(raw)[0] == ["\x1b[31mred\x1b[0m\txy \\xff"]


def test_progress_bar() -> None:
    """Of a line that was written over, the last state is told."""
    assert told(b"10%\r50%\r100%\n")[0] == ["100%"]


def test_long_lines() -> None:
    """A line without end is told in parts, as it comes."""
    out, _ = told(b"x" * 25_000 + b"\n", b"y" * 100_000)
    assert max(map(len, out)) == lines.LONGEST_LINE
    assert sum(map(len, out)) == 125_000


def test_flood() -> None:
    """Beyond a number of lines the rest is left out, and that is said once."""
    out, _ = told(b"y\n" * (lines.MOST_LINES + 100))
    assert len(out) == lines.MOST_LINES + 1
    assert "the rest is left out" in out[-1]


def test_reason() -> None:
    """The first error line is the reason."""
    _, writer = told(b"-----> x\n !     Procfile line 3: bad.\n !     more\n")
    assert writer.reason == "Procfile line 3: bad"


def test_flood_of_long_lines() -> None:
    """So it is beyond a number of characters."""
    out, _ = told(b"y" * (lines.MOST_TEXT + 100_000))
    assert sum(map(len, out[:-1])) <= lines.MOST_TEXT
    assert out[-1] == " !     The build wrote more than 16 MB; the rest is left out."
