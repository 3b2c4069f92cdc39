"""One more program in a running container, under a monitor of its own: a terminal, input, an exit code.

Its folder lies in the container's bundle; its monitor deletes it at the end, and the container's
removal deletes what is left. The program lives on when its caller is killed, or detaches.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.runtime.commands import PATH
from shipway.runtime.containers import ending, launch, lifecycle
from shipway.runtime.containers.attach import Attachment
from shipway.runtime.containers.container import Files, read_pid
from shipway.runtime.containers.foreground import Output, run_streamed
from shipway.runtime.containers.tools import Tools
from shipway.runtime.errors import ContainerLost, StartFailed
from shipway.runtime.files import atomic_write, random_name
from shipway.runtime.ids.accounts import find_account
from shipway.runtime.oci import bundle, conmon
from shipway.runtime.spec import check_cwd, check_env

DELETE = "/usr/bin/rm"


@dataclass(frozen=True)
class Program:
    """What to run: without `user` and `cwd` as the container itself, with its environment and `env`.

    With `stdin` it can be written to; `detached` it is left alone, and its output goes nowhere.
    `console` is the terminal's first size, rows and columns.
    """

    args: tuple[str, ...]
    env: Mapping[str, str]
    user: str | None = None
    cwd: str | None = None
    terminal: bool = False
    stdin: bool = False
    detached: bool = False
    console: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_env(self.env)
        if self.cwd is not None:
            check_cwd(self.cwd)


class Execution:
    """A program that was begun: its streams, and its exit code once it has ended."""

    def __init__(self, attachment: Attachment | None, sync: int) -> None:
        self.attachment = attachment
        self._sync = sync

    def wait(self) -> int:
        """The exit code. Raises ContainerLost if its monitor died."""
        answer = conmon.read_line(self._sync, None)
        if not answer:
            raise ContainerLost("exec")
        return int(json.loads(answer)["data"])

    def close(self) -> None:
        """Let go of it; it goes on if it has not ended."""
        if self.attachment is not None:
            self.attachment.close()
        os.close(self._sync)


def begin(tools: Tools, files: Files, program: Program, layers: Sequence[Path]) -> Execution:
    """Run the program; its caller closes what is returned. Raises StartFailed, NoSuchUser."""
    document = process(files, program, layers)
    folder = files.bundle / f"exec-{random_name(4)}"
    folder.mkdir(mode=0o700)
    atomic_write(folder / "process.json", json.dumps(document).encode(), durable=False)
    monitor = conmon.Monitor(
        container_id=files.id,
        bundle=folder,
        persist=folder,
        pid_file=folder / "monitor.pid",
        init_pid_file=folder / "init.pid",
        log=conmon.log_argument(None),
        runtime_log=folder / "runtime.log",
        terminal=program.terminal,
        stdin=program.stdin,
        leave_stdin_open=program.terminal,
        exit_command=(DELETE, "-rf", "--", str(folder)),
    )
    argv = [
        *conmon.conmon_argv(tools.conmon, tools.runtime, monitor),
        *("--exec", "--exec-process-spec", str(folder / "process.json")),
        *([] if program.detached else ["--exec-attach"]),
    ]
    try:
        found = _run(tools, argv, folder, program)
    except StartFailed as error:
        raise launch.start_error(f"the program could not be run: {str(error).strip()}") from error
    lifecycle.tell(files, "exec_start")
    return found


def run(
    tools: Tools,
    files: Files,
    args: tuple[str, ...],
    env: Mapping[str, str],
    output: Output | None,
    timeout: float | None,
) -> int:
    """Run a program to its end without a monitor, handing on what it says; its exit code.

    It is killed if it runs longer than `timeout` seconds: TimedOut.
    """
    document = files.bundle / f"exec-{random_name(4)}.json"
    pid_file = document.with_suffix(".pid")
    content = json.dumps(process(files, Program(args, env), ())).encode()
    atomic_write(document, content, durable=False)
    try:
        argv = tools.runtime.execute(files.id, document, pid_file)
        return run_streamed(argv, output or _drop, timeout)
    except BaseException:
        ending.signal_process(tools, files.id, read_pid(pid_file))
        raise
    finally:
        document.unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)


def process(files: Files, program: Program, layers: Sequence[Path]) -> dict[str, Any]:
    """The OCI `process` object: the container's own, with what is asked for."""
    own: dict[str, Any] = json.loads(files.config.read_bytes())["process"]
    env = dict(line.split("=", 1) for line in own["env"])
    if program.terminal:
        env = {"TERM": "xterm", **env}
    own.pop("consoleSize", None)
    document = own | {"args": list(program.args), "terminal": program.terminal}
    document |= bundle.console_size(program.console)
    if program.user is not None:
        with files.look() as layer:
            account = find_account([layer / "upper", *layers], program.user)
        user: dict[str, Any] = {"uid": account.uid, "gid": account.gid}
        if account.groups:
            user["additionalGids"] = list(account.groups)
        document["user"] = user
        env["HOME"] = account.home
    if program.cwd is not None:
        document["cwd"] = program.cwd
    return document | {"env": bundle.environment({**env, **program.env})}


def _run(tools: Tools, argv: list[str], folder: Path, program: Program) -> Execution:
    start_read, start_write = os.pipe()
    sync_read, sync_write = os.pipe()
    ready_read, ready_write = os.pipe()
    attachment: Attachment | None = None
    try:
        monitor = subprocess.Popen(
            argv,
            cwd=folder,
            env={
                "PATH": PATH,
                "_OCI_STARTPIPE": str(start_read),
                "_OCI_SYNCPIPE": str(sync_write),
                "_OCI_ATTACHPIPE": str(ready_write),
            },
            pass_fds=(start_read, sync_write, ready_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for fd in (start_read, sync_write, ready_write):
            os.close(fd)
        start_read = sync_write = ready_write = -1
        tools.cgroups.adopt_monitor(monitor.pid)
        os.write(start_write, b"\0")
        if not program.detached:
            conmon.read_line(ready_read, conmon.CREATE_TIMEOUT)
            attachment = Attachment(folder)
            os.write(start_write, b"\0")
        answer = conmon.read_line(sync_read, conmon.CREATE_TIMEOUT)
        monitor.wait(timeout=conmon.CREATE_TIMEOUT)  # it has forked the monitor proper, and ends
        conmon.parse_answer(answer)
        found, sync_read = Execution(attachment, sync_read), -1
        return found
    except BaseException:
        if attachment is not None:
            attachment.close()
        raise
    finally:
        for fd in (start_read, start_write, sync_read, sync_write, ready_read, ready_write):
            if fd >= 0:
                os.close(fd)


def _drop(_chunk: bytes) -> None:
    """Take output that nobody wants."""
