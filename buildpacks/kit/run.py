"""Run programs, with what they say indented into the log."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shipway.buildpacks.kit import say

KEPT = 200  # lines of the output that are kept for whoever explains a failure


class Done(NamedTuple):
    """A program that has ended; `lines` are the last that it wrote."""

    code: int
    lines: tuple[str, ...]

    @property
    def output(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


def run(
    args: Sequence[str],
    env: Mapping[str, str],
    folder: str | None = None,
    show: Callable[[str], bool] = lambda _line: True,
) -> Done:
    """Run `args` without input in `folder`; lines that `show` agrees to go to the log.

    A program that cannot be started ends with code 127, as in a shell.
    """
    import subprocess  # a build without news starts no program

    lines: list[str] = []
    try:
        process = subprocess.Popen(
            list(args),
            env=dict(env),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        say.detail(f"{args[0]} cannot be run: {os.strerror(error.errno or 0)}")
        return Done(127, ())
    assert process.stdout is not None
    for raw in process.stdout:
        # What was drawn over with a carriage return is progress: only its last state counts.
        line = raw.decode(errors="replace").rstrip().rpartition("\r")[2]
        lines = [*lines[1 - KEPT :], line]
        if show(line):
            say.detail(line)
    return Done(process.wait(), tuple(lines))


def output(args: Sequence[str], env: Mapping[str, str]) -> str | None:
    """What a program prints; None when it fails."""
    import subprocess

    try:
        done = subprocess.run(
            list(args), env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
