"""What a release runs once, in a container of its own: its `release` command, and app.json's postdeploy script."""

import threading

from shipway.buildpacks.lines import LineWriter
from shipway.platform import applog
from shipway.platform.models import Release
from shipway.runtime.errors import RuntimeFailure, TimedOut
from shipway.runtime.spec import ContainerSpec
from shipway.workers.console import Console
from shipway.workers.context import Context
from shipway.workers.errors import DeployFailed
from shipway.workers.instances import process_container

PREFIX = "task-"  # of the containers' ids


class Task:
    """A command of a release; what it says goes into the deploy's output and the app's log."""

    def __init__(self, ctx: Context, release: Release, kind: str, command: str) -> None:
        self._ctx = ctx
        self._release = release
        self._kind = kind
        self._command = command

    def run(self, stop: threading.Event, timeout: float) -> None:
        """Run it to its end. Raises DeployFailed, also when `stop` was set meanwhile."""
        self._clear()
        console = Console(self._ctx.store, self._release.stream)

        def line(text: str) -> None:
            console.line(f"       {text}")
            applog.append(self._ctx.settings, self._release.app.name, f"app[{self._kind}.1]", text)

        lines = LineWriter(line)
        try:
            found = self._ctx.engine.execute(self._specification(), lines.feed, stop, timeout)
        except TimedOut:
            raise DeployFailed(f"The {self._what} took longer than {timeout:g} seconds.") from None
        except RuntimeFailure as error:
            raise DeployFailed(f"The {self._what} could not be run: {error}.") from None
        finally:
            lines.close()
            console.close()
        if found.oom:
            limit = self._ctx.settings.instance_memory >> 20
            raise DeployFailed(f"The {self._what} ran out of memory (limit {limit} MiB).")
        if found.code:
            raise DeployFailed(f"The {self._what} exited with status {found.code}.")

    @property
    def _what(self) -> str:
        return f"{self._kind} command"

    def _id(self, fence: int) -> str:
        return f"{PREFIX}{self._release.id}-{self._kind}-{fence}"

    def _clear(self) -> None:
        """End what an earlier attempt has left, whose worker was killed."""
        for fence in range(1, self._release.fence + 1):
            self._ctx.engine.remove(self._id(fence))

    def _specification(self) -> ContainerSpec:
        release = self._release
        return process_container(
            self._ctx,
            release.app,
            release,
            self._kind,
            f"{self._kind}.1",
            self._command,
            container_id=self._id(release.fence),
            labels={"shipway.app": release.app.name, "shipway.task": self._kind},
        )
