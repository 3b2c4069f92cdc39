"""Signals to a container's first process, waiting for its end, and its stop."""

import os
import signal

from shipway.runtime.containers import lifecycle, removal
from shipway.runtime.containers.container import (
    SIGKILL_CODE,
    Exit,
    Files,
    Observer,
    open_pidfd,
    read_pid,
    wait_for_end,
)
from shipway.runtime.containers.tools import Tools
from shipway.runtime.errors import NoSuchContainer
from shipway.runtime.files import atomic_write

ALIVE = ("running", "paused")


def signal_process(tools: Tools, container_id: str, pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process if it is of that container: the pid may be another's by now."""
    fd = open_pidfd(pid)
    if fd is None:
        return
    try:
        if tools.cgroups.holds(container_id, pid):
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def kill(tools: Tools, observer: Observer, files: Files, number: int) -> None:
    """Send a signal to init. Raises IllegalMove, NoSuchContainer."""
    state = lifecycle.check(observer, files, "kill")
    if number == signal.SIGKILL:
        observer.note_spared(files)
    signal_process(tools, files.id, read_pid(files.init_pid), number)
    lifecycle.tell(files, "kill", signal=str(number))
    if state == "paused" and number == signal.SIGKILL:
        tools.cgroups.thaw(files.id)


def stop(
    tools: Tools, observer: Observer, files: Files, grace: float | None, number: int | None
) -> Exit:
    """Send the stop signal to init, wait `grace` seconds, kill what is left. NoSuchContainer."""
    state = observer.container(files).state
    if state in ALIVE:
        own_number, own_grace = lifecycle.stop_signal(files)
        signal_process(tools, files.id, read_pid(files.init_pid), number or own_number)
        if state == "paused":
            tools.cgroups.thaw(files.id)
        await_end(observer, files, own_grace if grace is None else grace)
    if observer.exit(files) is None:
        observer.note_spared(files)
        # Init goes first: had it seen its children die, it might still end as if all were well.
        signal_process(tools, files.id, read_pid(files.init_pid))
        removal.kill_processes(tools, files)
    if observer.exit(files) is None and files.persist.is_dir():
        # No monitor was there to note it.
        atomic_write(files.exit, str(SIGKILL_CODE).encode(), durable=False)
    found = observer.exit(files)
    if found is None:
        raise NoSuchContainer(files.id)
    if state in ALIVE:
        lifecycle.note_exit(observer, files)
        lifecycle.tell(files, "stop")
    return found


def await_end(observer: Observer, files: Files, timeout: float | None) -> bool:
    """Wait until no monitor of the container lives; False after so many seconds."""
    fd = open_pidfd(observer.monitor_pid(files))
    if fd is None:
        return True
    try:
        return wait_for_end([fd], timeout)
    finally:
        os.close(fd)
