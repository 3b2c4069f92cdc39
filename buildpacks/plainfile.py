"""Small files of strangers: never a link, a pipe or a device, and never large."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

LARGEST = 1 << 20  # bytes
MOST_DOTS = 500  # in a line of TOML


def read_text(path: Path) -> str:
    """The text of a plain file. Raises OSError, and ValueError that says what it is instead."""
    return read(path).decode("utf-8-sig")


def read_toml(path: Path) -> dict[str, Any]:
    """A plain file of TOML. Raises OSError, RecursionError, and ValueError that says what is wrong.

    The time to read a key grows with the square of its parts, so a line may have few of them.
    """
    text = read_text(path)
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"line {number} has more than {MOST_DOTS} dots")
    return tomllib.loads(text)


def read(path: Path, most: int = LARGEST) -> bytes:
    """A plain file of at most `most` bytes. Raises OSError, and ValueError that says what is wrong."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no plain file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most >> 20} MB")
    return data


def folder_below(root: Path, relative: str) -> Path | None:
    """The folder of that path below `root`, if every step to it is a folder and no link."""
    path = root
    for part in Path(relative).parts:
        if part in ("..", "/"):
            return None
        path /= part
        if path.is_symlink() or not path.is_dir():
            return None
    return path
