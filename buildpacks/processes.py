"""Process types: as one shell command each, which the platform starts, and as the launcher's files."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from shipway.buildpacks.lifecycle.request import APP_DIR, EXEC_ENV, LAYERS_DIR
from shipway.buildpacks.result import ResultProcess
from shipway.runtime.images.store import ImageConfig

PLATFORM_API = "0.15"
LAUNCHER = "/cnb/lifecycle/launcher"
PROCESS_DIR = "/cnb/process"
TYPE_VARIABLE = "SHIPWAY_PROCESS_TYPE"  # which process type's environment a command is to have
_SHELLS = {"bash", "/bin/bash", "sh", "/bin/sh"}


def commands(processes: Iterable[ResultProcess]) -> dict[str, str]:
    """Commands by type, of those that run in production."""
    return {
        process.type: command(process)
        for process in processes
        if not process.exec_env or {EXEC_ENV, "*"} & set(process.exec_env)
    }


def command(process: ResultProcess) -> str:
    """The line that `bash -c` runs in the app's folder.

    A process for a shell is left to the launcher, which knows the profile scripts before it.
    """
    if not process.direct:
        return f"{PROCESS_DIR}/{process.type}"
    line = _line((*process.command, *process.args))
    if process.working_dir not in ("", APP_DIR):
        line = f"cd {shlex.quote(process.working_dir)} && {line}"
    return line


def started(config: ImageConfig, args: Sequence[str], line: str = "") -> tuple[str, ...]:
    """What a container of an image runs so that `args` see the environment of its buildpacks.

    `line` is the process type's command. An image without a launcher runs `args` as they are.
    """
    entrypoint = config.entrypoint[0] if config.entrypoint else ""
    if entrypoint != LAUNCHER and not entrypoint.startswith(f"{PROCESS_DIR}/"):
        return tuple(args)
    if line.startswith(f"{PROCESS_DIR}/"):
        return (line,)
    return (LAUNCHER, "--", *args)


def entrypoint(processes: Iterable[ResultProcess], default: str | None, wanted: str | None) -> str:
    """What the image runs: the type `wanted`, else the buildpacks' default, else web or nothing.

    Raises KeyError when there is no process of the type `wanted`.
    """
    types = {process.type for process in processes}
    if wanted is not None and wanted not in types:
        raise KeyError(wanted)
    for type_ in (wanted, default, "web"):
        if type_ in types:
            return f"{PROCESS_DIR}/{type_}"
    return LAUNCHER


def launch_list(
    processes: Iterable[ResultProcess], group: Sequence[tuple[str, tuple[int, int]]]
) -> bytes:
    """What the launcher reads; launcher.c describes it. `group` is of folders and API versions."""
    words: list[str] = []
    for folder, api in group:
        words += ["buildpack", folder, "1" if api >= (0, 9) else "0"]
    place = {folder: str(number) for number, (folder, _) in enumerate(group)}
    for process in processes:
        words += ["process", process.type, place[process.buildpack.replace("/", "_")]]
        words += ["1" if process.direct else "0", process.working_dir or APP_DIR]
        for part in (process.exec_env, process.command, process.args):
            words += [str(len(part)), *part]
    return b"".join(word.encode() + b"\0" for word in words)


def environment(run: Mapping[str, str]) -> dict[str, str]:
    """What an image's environment has beside its run image's, by the platform specification."""
    path = run.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        "CNB_LAYERS_DIR": LAYERS_DIR,
        "CNB_APP_DIR": APP_DIR,
        "CNB_PLATFORM_API": PLATFORM_API,
        "CNB_DEPRECATION_MODE": "quiet",
        "PATH": f"{PROCESS_DIR}:{os.path.dirname(LAUNCHER)}:{path}",
    }


def _line(words: Sequence[str]) -> str:
    if len(words) == 3 and words[0] in _SHELLS and words[1] == "-c":
        return words[2]
    return shlex.join(words)
