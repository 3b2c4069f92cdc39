"""conmon: the small process beside each container that keeps its log and notes its exit."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.commands import PATH
from shipway.runtime.errors import HostUnfit, StartFailed
from shipway.runtime.oci.runtime import OciRuntime

CREATE_TIMEOUT = 60.0
# The log driver that hands the container conmon's own output.
PASSTHROUGH = "passthrough"


@dataclass(frozen=True)
class Monitor:
    """What one conmon is told. Paths: the OCI bundle, where pids and the exit code go, the log."""

    container_id: str
    bundle: Path
    persist: Path
    pid_file: Path
    init_pid_file: Path
    log: str
    runtime_log: Path
    terminal: bool = False
    stdin: bool = False
    leave_stdin_open: bool = False
    exit_command: tuple[str, ...] = ()


def find_conmon() -> Path:
    """The installed conmon, or HostUnfit."""
    path = shutil.which("conmon")
    if path is None:
        raise HostUnfit("conmon is not installed", "install Debian's package conmon")
    return Path(path)


def conmon_argv(conmon: Path, runtime: OciRuntime, monitor: Monitor) -> list[str]:
    """The command line. Its --cid and --bundle are also how a stray monitor is recognised."""
    runtime_arguments = [
        *runtime.arguments(),
        "--log",
        str(monitor.runtime_log),
        "--log-format=json",
    ]
    return [
        str(conmon),
        *("--api-version", "1"),
        *("--cid", monitor.container_id),
        *("--cuuid", monitor.container_id),
        *("--name", monitor.container_id),
        *("--bundle", str(monitor.bundle)),
        *("--runtime", str(runtime.program)),
        *(f"--runtime-arg={argument}" for argument in runtime_arguments),
        *("--persist-dir", str(monitor.persist)),
        *("--conmon-pidfile", str(monitor.pid_file)),
        *("--container-pidfile", str(monitor.init_pid_file)),
        *("--log-path", monitor.log),
        *("--log-level", "error"),
        "--full-attach",
        # A power cut may cost the last lines; a disk flush at each exit would cost every stop.
        "--no-sync-log",
        *(["--terminal"] if monitor.terminal else []),
        *(["--stdin"] if monitor.stdin else []),
        *(["--leave-stdin-open"] if monitor.leave_stdin_open else []),
        *(f"--exit-command={word}" for word in monitor.exit_command[:1]),
        *(f"--exit-command-arg={word}" for word in monitor.exit_command[1:]),
    ]


def log_argument(path: Path | None) -> str:
    """The --log-path for a file in the k8s-file format, or for no log."""
    return f"k8s-file:{path if path is not None else '/dev/null'}"


def create_container(
    argv: list[str], cwd: Path, output: int, prepare: Callable[[int], None]
) -> int:
    """Start a conmon, which creates its container; return the pid of the container's init.

    `prepare` is given conmon's pid, and makes what the container needs while conmon comes up and
    waits. Raises StartFailed with the reason.
    """
    start_read, start_write = os.pipe()
    sync_read, sync_write = os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={
                "PATH": PATH,
                "_OCI_STARTPIPE": str(start_read),
                "_OCI_SYNCPIPE": str(sync_write),
            },
            pass_fds=(start_read, sync_write),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Python ignores SIGXFSZ, and so must conmon: its log is bounded (rotation.py).
            restore_signals=False,
        )
        os.close(sync_write)
        sync_write = -1
        try:
            prepare(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise
        os.write(start_write, b"\0")
        answer = read_line(sync_read, CREATE_TIMEOUT)
        process.wait(timeout=CREATE_TIMEOUT)  # it has forked the monitor proper, and ends
        return parse_answer(answer)
    finally:
        for fd in (start_read, start_write, sync_read, sync_write):
            if fd >= 0:
                os.close(fd)


def read_line(fd: int, timeout: float | None) -> bytes:
    """A line from a pipe, empty at its end. Raises StartFailed after so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise StartFailed(f"the OCI runtime did not answer within {timeout} seconds")
        # One at a time: the next line is another's to read.
        chunk = os.read(fd, 1)
        if not chunk:
            break
        line += chunk
    return line


def parse_answer(line: bytes) -> int:
    """The pid in a monitor's answer. Raises StartFailed with what it says instead."""
    try:
        answer = json.loads(line)
        pid = int(answer.get("data", answer.get("pid", -1)))
    except (ValueError, AttributeError):
        pid, answer = -1, {}
    if pid <= 0:
        raise StartFailed(
            str(answer.get("message") or "conmon ended before the container was made")
        )
    return pid
