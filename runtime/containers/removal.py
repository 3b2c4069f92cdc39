"""Taking a container away, in whatever state it is and whatever of it is missing."""

import os
import shutil
import signal
import time

from shipway.runtime.commands import run_command
from shipway.runtime.containers.container import (
    Files,
    find_monitors,
    is_monitor,
    open_pidfd,
    read_pid,
    wait_for_end,
)
from shipway.runtime.containers.idmapping import give_back
from shipway.runtime.containers.tools import Tools
from shipway.runtime.errors import RuntimeFailure

MONITOR_TIMEOUT = 10.0


def remove(tools: Tools, files: Files) -> None:
    """Kill what runs and delete what is left, except the log. Idempotent."""
    files.begin()
    clear_run(tools, files)
    tools.wiring.forget(files.id)
    tools.vault.forget(files.id)
    delete_tree(files.folder)
    # The port on the bridge ends with the network namespace, which the kernel takes down in the next
    # ten milliseconds or so. Who is leased the address meanwhile deletes it (Network.attach).
    tools.pool.release(files.id)
    tools.ids.release(files.id)
    files.finish()


def clear_run(tools: Tools, files: Files) -> None:
    """Kill what runs and delete what belongs to a run; folder and leases stay. Idempotent."""
    kill_processes(tools, files)
    give_back(files)
    tools.wiring.disconnect(files.id)
    # With its processes gone, all that crun and runc still have of a container are files and groups:
    # we need not wait for a program of theirs. It is asked where anything resists, as runsc's does.
    for left in tools.runtime.state_files(files.id):
        shutil.rmtree(left, ignore_errors=True)
    if tools.runtime.state_files(files.id):
        run_command(tools.runtime.delete(files.id))
    tools.cgroups.remove(files.id)
    delete_tree(files.bundle)


def kill_processes(tools: Tools, files: Files) -> None:
    """End the container's processes and its monitor, and see that they are gone."""
    # A monitor notes the exit and ends by itself, unless it was still at creating.
    patience = MONITOR_TIMEOUT if files.init_pid.exists() else 0.0
    if files.caller.exists() and files.exit.exists():
        patience = 0.0  # its last deed may be this very removal, for whose end it waits
    while True:
        tools.cgroups.kill_all(files.id, read_pid(files.init_pid))
        if ended_by_itself(files):
            return
        monitors = find_monitors(files.bundle)
        # A monitor forks once and ends, early in its life: just then one look can miss both of it.
        if not monitors and not files.exit.exists():
            monitors = find_monitors(files.bundle)
        if not monitors:
            return
        for pid in monitors:
            end_monitor(pid, patience)
        patience = 0.0


def ended_by_itself(files: Files) -> bool:
    """Whether the container's one monitor has noted the exit and is gone: nobody needs to be sought."""
    if not (files.exit.exists() and files.started.exists() and read_pid(files.monitor_pid)):
        return False
    if is_monitor(read_pid(files.monitor_pid), files.bundle):
        return False
    return not any(files.bundle.glob("exec-*"))


def end_monitor(pid: int, patience: float) -> None:
    """Wait so many seconds for a monitor's end, then kill it."""
    fd = open_pidfd(pid)
    if fd is None:
        return
    try:
        if not wait_for_end([fd], patience):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            wait_for_end([fd], MONITOR_TIMEOUT)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def delete_tree(folder: os.PathLike[str]) -> None:
    """Delete a directory and all below; a mount still seen elsewhere can hold it for a moment."""
    delay = 0.005
    while True:
        try:
            shutil.rmtree(folder)
            return
        except FileNotFoundError:
            # Of the folder itself, or of something in it that another deletes at this moment.
            if not os.path.lexists(folder):
                return
        except RecursionError:  # Python 3.11's goes no deeper than a thousand folders
            run_command(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)])
        except OSError as error:
            if delay > 2:
                raise RuntimeFailure(
                    f"{os.fspath(folder)} could not be deleted: {error}"
                ) from error
            time.sleep(min(delay, 0.1))
            delay *= 2
