"""Containers that are kept: made once, started and stopped any number of times, until removed.

Whatever of it is cut short by kill -9 is found by the next call: a folder without a record was being
made, a run without an exit was being started; both are cleared and done anew.
"""

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable

from shipway.runtime.commands import run_command
from shipway.runtime.containers import launch, reaper, removal, savedspec
from shipway.runtime.containers.container import RUN, Container, Exit, Files, Observer
from shipway.runtime.containers.states import State, check_move
from shipway.runtime.containers.tools import Root, Tools
from shipway.runtime.errors import (
    AmbiguousName,
    NameInUse,
    NoSuchContainer,
    NotKept,
    RuntimeFailure,
)
from shipway.runtime.files import atomic_write
from shipway.runtime.observability import events
from shipway.runtime.spec import ALLOT, ContainerSpec

# An id that the engine's command makes up when it is given no name.
GENERATED = re.compile(r"[0-9a-f]{12}")
# The grace of a container that has no specification to tell its own.
DEFAULT_GRACE = 30.0


def create(tools: Tools, observer: Observer, files: Files, spec: ContainerSpec, root: Root) -> None:
    """Make what a later start needs. Raises NameInUse, InvalidSpec, NoFreeIds."""
    if files.record.exists():
        raise NameInUse(files.id, observer.container(files).state)
    if files.folder.exists() or files.bundle.exists():
        removal.remove(tools, files)  # what a killed one left
    files.begin()
    if spec.ids == ALLOT:
        spec = dataclasses.replace(spec, ids=tools.ids.lease(spec.id))
    try:
        launch.check(tools, files, spec)
        files.create()
        tools.wiring.enrol(spec)
        durable = not spec.auto_remove  # such a container does not outlast a reboot anyway
        if spec.auto_remove:
            files.caller.touch(0o600)
        atomic_write(files.spec, savedspec.dump(spec), durable=durable)
        files.write_record(launch.new_record(spec, root.digest), durable=durable)
        if spec.secrets:
            tools.vault.keep(spec)
    except BaseException:
        removal.remove(tools, files)
        raise
    files.finish()
    tell(files, "create")


def start(
    tools: Tools,
    observer: Observer,
    files: Files,
    find_root: Callable[[str], Root],
    ready: Callable[[], None] | None,
) -> None:
    """Start a kept container; if that fails, nothing of the attempt is left, and it is as created.

    Raises IllegalMove, NotKept, StartFailed, NoSuchImage.
    """
    state = observer.container(files).state
    check_move(files.id, "start", state)
    if state == "lost" and tools.cgroups.members(files.id):
        check_move(files.id, "start", "running")  # only its monitor died
    spec = saved_spec(files)
    record = files.read_record()
    root = dataclasses.replace(find_root(record.digest or record.image), volatile=spec.auto_remove)
    note_exit(observer, files)
    files.begin(RUN)
    renew(tools, files)

    def about_to_start() -> None:
        if ready is not None:
            ready()
        tell(files, "start")  # now, so that it comes before the end of a very short program

    try:
        launch.check(tools, files, spec)
        launch.bring_up(tools, files, spec, root, record, None, about_to_start)
    except BaseException:
        renew(tools, files)
        files.finish()
        raise
    files.finish()


def renew(tools: Tools, files: Files) -> None:
    """Clear what the last run left, but what it wrote."""
    run = (files.bundle, files.monitor_pid, files.init_pid, files.exit)
    if any(path.exists() for path in run):
        removal.clear_run(tools, files)
        tools.pool.release(files.id)
    files.reset()


def saved_spec(files: Files) -> ContainerSpec:
    """The specification that the container was created with. Raises NotKept, NoSuchContainer."""
    try:
        return savedspec.load(files.spec.read_bytes())
    except FileNotFoundError:
        files.read_record()
        raise NotKept(
            f"container {files.id!r} was not made to be started again; make one with create"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RuntimeFailure(
            f"the specification {files.spec} is damaged ({error}); remove the container"
        ) from error


def command(files: Files) -> tuple[str, ...]:
    """The command line a container has, by its specification or its last start; empty if none."""
    try:
        return saved_spec(files).args
    except RuntimeFailure:
        pass
    try:
        return tuple(json.loads(files.config.read_bytes())["process"]["args"])
    except (OSError, ValueError, KeyError):
        return ()


def pause(tools: Tools, observer: Observer, files: Files) -> None:
    """Freeze every process of a running container. Raises IllegalMove."""
    check_move(files.id, "pause", observer.container(files).state)
    _must(run_command(tools.runtime.pause(files.id)).returncode == 0, files, "paused")
    tell(files, "pause")


def unpause(tools: Tools, observer: Observer, files: Files) -> None:
    """Let a paused container go on. Raises IllegalMove."""
    check_move(files.id, "unpause", observer.container(files).state)
    _must(run_command(tools.runtime.resume(files.id)).returncode == 0, files, "unpaused")
    tell(files, "unpause")


def _must(done: bool, files: Files, word: str) -> None:
    if not done:
        raise RuntimeFailure(f"container {files.id!r} could not be {word}")


def note_exit(observer: Observer, files: Files) -> Exit | None:
    """The container's exit, if it has ended; that it died is noted by the first who asks."""
    found = observer.exit(files)
    if found is None:
        return None
    try:
        os.close(os.open(files.noted, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except (FileExistsError, FileNotFoundError):
        return found
    if found.oom:
        tell(files, "oom", at=found.at)
    tell(files, "die", at=found.at, exitCode=str(found.code))
    return found


def tell(files: Files, action: str, at: float | None = None, **attributes: str) -> None:
    """Note an event of the container."""
    try:
        record = files.read_record()
    except NoSuchContainer:
        return
    about = {**record.labels, "image": record.image, "name": files.id, **attributes}
    events.note(files.folder.parent.parent, "container", action, files.id, about, at)


def resolve(ids: list[str], name: str) -> str:
    """The id that is meant by a name, or by the beginning of an id that was made up.

    Raises NoSuchContainer, AmbiguousName.
    """
    if name in ids:
        return name
    meant = [each for each in ids if each.startswith(name) and GENERATED.fullmatch(each)]
    if len(meant) > 1:
        raise AmbiguousName(f"{name!r} is the beginning of {', '.join(meant)}; write more of it")
    if not meant or not name:
        raise NoSuchContainer(name)
    return meant[0]


def must_be_swept(container: Container, files: Files) -> bool:
    """Whether it is one to be removed at its end, has ended, and whoever should did not."""
    ended = container.state == "stopped" or (container.state == "lost" and not container.pid)
    if not ended or not files.caller.exists():
        return False
    return not reaper.is_attended(files)


def stop_signal(files: Files) -> tuple[int, float]:
    """What a stop of the container sends, and how many seconds it then waits."""
    try:
        spec = saved_spec(files)
    except NotKept:
        return signal.SIGTERM, DEFAULT_GRACE
    return spec.stop_signal, spec.stop_timeout


def check(observer: Observer, files: Files, verb: str) -> State:
    """The container's state, in which `verb` may be used. Raises IllegalMove, NoSuchContainer."""
    state = observer.container(files).state
    check_move(files.id, verb, state)
    return state
