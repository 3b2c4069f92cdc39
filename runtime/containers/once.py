"""Containers that are run once: made and started in one go, and gone on any error."""

import dataclasses
from collections.abc import Callable

from shipway.runtime.containers import ending, lifecycle, removal
from shipway.runtime.containers.container import Files, Observer, read_pid
from shipway.runtime.containers.launch import launch
from shipway.runtime.containers.tools import Root, Tools
from shipway.runtime.errors import ContainerExists
from shipway.runtime.files import folder_errors
from shipway.runtime.spec import ALLOT, ContainerSpec


def run(
    tools: Tools,
    observer: Observer,
    files: Files,
    spec: ContainerSpec,
    root: Root,
    output: int | None,
    prepared: Callable[[int], None] | None,
) -> None:
    """Make and start it, in the place of an earlier one of its id that does not run.

    With `output` its stdout and stderr go there, unlogged. `prepared` gets the pid of its first
    process before that begins. Raises ContainerExists, StartFailed.
    """

    def ready() -> None:
        lifecycle.tell(files, "start")
        if prepared is not None:
            prepared(read_pid(files.init_pid))

    _clear_leftovers(tools, observer, files)
    with folder_errors(files.folder):
        files.begin()
        try:
            if spec.ids == ALLOT:
                spec = dataclasses.replace(spec, ids=tools.ids.lease(spec.id))
            launch(tools, files, spec, root, output, ready)
        except BaseException:
            removal.remove(tools, files)
            raise
        files.finish()


def _clear_leftovers(tools: Tools, observer: Observer, files: Files) -> None:
    if files.folder.exists() and observer.container(files).state in ending.ALIVE:
        raise ContainerExists(files.id)
    if files.folder.exists() or files.bundle.exists():
        removal.remove(tools, files)
