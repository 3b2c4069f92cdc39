"""Run programs. `subprocess` would cost a tenth of a code-only build's own time to import."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shipway.buildpacks.lifecycle.errors import BUILDPACK_FAILED, LifecycleError


class Child(NamedTuple):
    """A program that was started."""

    pid: int

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(args: Sequence[str], env: Mapping[str, str], output: str | None = None) -> Child:
    """Start `args` in the current folder, without input; `output` is a file for all it writes.

    Raises LifecycleError when there is no such program.
    """
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    if output is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions.append((os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    try:
        return Child(os.posix_spawn(args[0], list(args), env, file_actions=actions))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise LifecycleError(f"{args[0]} cannot be run: {why}", BUILDPACK_FAILED) from error
