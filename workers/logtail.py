"""The last lines that an instance wrote, from its monitor's file (`time stream P|F text`)."""

import os
from pathlib import Path

WINDOW = 64 << 10  # bytes at the file's end that are looked at


def last_lines(path: Path, count: int) -> tuple[str, ...]:
    """At most `count` lines, the newest last; empty if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - WINDOW))
            raw = file.read()
    except FileNotFoundError:
        return ()
    pieces = raw.split(b"\n")[1 if size > WINDOW else 0 :]
    return tuple(_joined(pieces)[-count:])


def _joined(pieces: list[bytes]) -> list[str]:
    """Text of whole lines: those that the monitor had to cut (P) are put together again."""
    lines, open_ = [], ""
    for piece in pieces:
        parts = piece.decode(errors="replace").split(" ", 3)
        if len(parts) < 4:
            continue
        open_ += parts[3]
        if parts[2] != "P":
            lines.append(open_)
            open_ = ""
    return [*lines, open_] if open_ else lines
