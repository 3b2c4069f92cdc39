"""Process types as one shell command each, which is how the platform starts them."""

import shlex
from collections.abc import Iterable, Mapping

from shipway.buildpacks.lifecycle.request import APP_DIR
from shipway.buildpacks.result import ResultProcess

_SHELLS = {"bash", "/bin/bash", "sh", "/bin/sh"}


def commands(processes: Iterable[ResultProcess]) -> dict[str, str]:
    """Commands by type. A later process of the same type replaces an earlier one."""
    return {process.type: command(process) for process in processes}


def command(process: ResultProcess) -> str:
    """The line that `bash -c` runs in the app's folder."""
    line = _line(process)
    if process.working_dir not in ("", APP_DIR):
        line = f"cd {shlex.quote(process.working_dir)} && {line}"
    if not process.env:
        return line
    settings = " ".join(shlex.quote(f"{k}={v}") for k, v in sorted(process.env.items()))
    return f"env {settings} bash -c {shlex.quote(line)}"


def default_command(processes: Iterable[ResultProcess], lines: Mapping[str, str]) -> str | None:
    """What the image runs when nobody says otherwise: the last default, else web."""
    default = "web"
    for process in processes:
        if process.default:
            default = process.type
    return lines.get(default)


def _line(process: ResultProcess) -> str:
    words = (*process.command, *process.args)
    if not process.direct:
        return " ".join((process.command[0], *map(shlex.quote, words[1:])))
    if len(words) == 3 and words[0] in _SHELLS and words[1] == "-c":
        return words[2]
    return shlex.join(words)
