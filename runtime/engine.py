"""The container engine: a library, no daemon. Threads and processes may share one engine root."""

import builtins
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.runtime import readiness
from shipway.runtime.config import EngineConfig
from shipway.runtime.containers import ending, lifecycle, once, removal, sweeping
from shipway.runtime.containers.container import (
    Container,
    Exit,
    Files,
    Observer,
    open_pidfd,
    read_pid,
)
from shipway.runtime.containers.tools import Root, Tools, assemble
from shipway.runtime.errors import (
    ContainerLost,
    EngineBusy,
    HostUnfit,
    NoSuchContainer,
)
from shipway.runtime.files import folder_errors, locked
from shipway.runtime.images.layers import LayerStore
from shipway.runtime.images.store import ImageStore
from shipway.runtime.kernel import host
from shipway.runtime.network.publish import Publish, Published, parse_exposed
from shipway.runtime.networks import Networks
from shipway.runtime.oci import apparmor
from shipway.runtime.spec import ContainerSpec, check_env, check_id

if TYPE_CHECKING:
    from shipway.runtime.containers.attach import Attachment
    from shipway.runtime.containers.execution import Execution, Program
    from shipway.runtime.containers.foreground import Output
    from shipway.runtime.filesystem.changes import Change
    from shipway.runtime.filesystem.interior import Interior
    from shipway.runtime.images.archives import Writable
    from shipway.runtime.images.commit import Change as ImageChange
    from shipway.runtime.images.store import Image
    from shipway.runtime.observability.logs import Line, LogReader
    from shipway.runtime.observability.stats import Stats
    from shipway.runtime.observability.top import Process

PROGRAM_TIMEOUT = 10.0
SETUP_REMEDY = "the engine must be root on a host of its own, not in a container"


class Engine:
    """Containers, images and layers of this machine."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        with folder_errors(config.root):
            for name in ("containers", "locks", "unfinished"):
                (config.root / name).mkdir(parents=True, exist_ok=True)
            config.run.mkdir(parents=True, exist_ok=True)
        self.layers = LayerStore(config.root)
        self.images = ImageStore(config.root, self.layers)

    # -- the machine ----------------------------------------------------------------------------

    def setup(self) -> None:
        """Make bridge, firewall, kernel settings and control groups. Idempotent. HostUnfit."""
        host.check_host()
        with locked(self.config.root / "locks/.setup"):
            try:
                self.config.claim()
                self._tools.cgroups.setup()
                self._tools.runtime.root.mkdir(parents=True, exist_ok=True)
                self._tools.wiring.setup()
                apparmor.load()
                self.config.save()
                self.sweep()
            except OSError as error:
                raise HostUnfit(f"the host refuses a setting ({error})", SETUP_REMEDY) from error

    def ensure_ready(self) -> None:
        """`setup`, unless all that it made in this boot is still there. HostUnfit."""
        if not readiness.is_ready(self._tools, self.config):
            self.setup()
            readiness.note_ready(self._tools, self.config)

    def info(self) -> dict[str, Any]:
        """Versions and features of the machine, for people."""
        tools = self._tools
        return {
            "runtime": tools.runtime.name,
            "runtime_version": tools.runtime.version,
            "cgroups": tools.cgroups.version,
            "kernel": os.uname().release,
            "ids": "mapped by the kernel" if tools.idmapping.by_kernel else "shifted copies",
            "bridge": self.config.bridge,
            "subnet": self.config.subnet,
            "nameservers": [str(each) for each in tools.network.resolver().nameservers],
        }

    def teardown(self) -> None:
        """Undo `setup`. Raises EngineBusy while there are containers."""
        if self._ids():
            raise EngineBusy(f"there are still containers: {', '.join(self._ids())}")
        self._tools.network.teardown()
        self._tools.cgroups.teardown()
        self._tools.vault.close()
        self.config.release()

    # -- starting -------------------------------------------------------------------------------

    def run(self, spec: ContainerSpec) -> Container:
        """Create and start a container. On any error nothing of it is left.

        An earlier container of that id that no longer runs, or never came to run, is replaced.
        Raises ContainerExists, NoSuchImage, StartFailed.
        """
        self.sweep()
        with self._lock(spec.id):
            self._launch(spec, None)
        return self.get(spec.id)

    def create(self, spec: ContainerSpec) -> Container:
        """Make a container that is kept, with its specification, until it is removed.

        On any error nothing of it is left. Raises NameInUse, NoSuchImage, InvalidSpec, NoFreeIds.
        """
        files = self._files(spec.id)
        self.sweep()
        with self._lock(spec.id), self.images.pinned(), folder_errors(files.folder):
            root = self._root(spec.image)
            self._sweep(files)
            lifecycle.create(self._tools, self._observer, files, spec, root)
        return self.get(spec.id)

    def start(self, container_id: str, ready: Callable[[], None] | None = None) -> Container:
        """Start a container that was created, or start it again with what it had written.

        `ready` is called once its streams can be attached to, before its program runs. On any
        error it is as it was created. Raises IllegalMove, NotKept, StartFailed, NoSuchContainer.
        """
        files = self._files(container_id)
        with self._lock(container_id), folder_errors(files.folder):
            lifecycle.start(self._tools, self._observer, files, self._root, ready)
        return self.get(container_id)

    def restart(self, container_id: str, grace: float | None = None) -> Container:
        """Stop a container if it runs, and start it. Raises as `stop` and `start`."""
        lifecycle.saved_spec(self._files(container_id))
        if self.get(container_id).state != "created":
            self.stop(container_id, grace)
        return self.start(container_id)

    def execute(
        self,
        spec: ContainerSpec,
        output: "Output",
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
        prepared: Callable[[int], None] | None = None,
    ) -> Exit:
        """Run a container to its end, handing on stdout and stderr; then remove it.

        `timeout` is in seconds. `prepared` gets the pid of its first process before that begins. Raises as `run`, and Cancelled, TimedOut, ContainerLost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        reader, writer = os.pipe()
        try:
            try:
                with self._lock(spec.id):
                    self._launch(spec, writer, prepared)
            finally:
                os.close(writer)
            return self._follow(spec.id, reader, output, cancelled, deadline)
        finally:
            os.close(reader)

    def execute_in(
        self,
        container_id: str,
        args: tuple[str, ...],
        env: Mapping[str, str] | None = None,
        output: "Output | None" = None,
        timeout: float | None = None,
    ) -> Exit:
        """Run one more program in a running container, as its user, with its environment and `env`."""
        # Imported late: few of the engine's callers ever join a container.
        from shipway.runtime.containers import execution

        check_env(env or {})
        files = self._files(container_id)
        lifecycle.check(self._observer, files, "exec")
        self._observer.await_program(files, PROGRAM_TIMEOUT)
        code = execution.run(self._tools, files, args, env or {}, output, timeout)
        return Exit(code, False, time.time())

    def begin(self, container_id: str, program: "Program") -> "Execution":
        """Run one more program in a running container, with streams to attach to.

        The caller closes what is returned. Raises IllegalMove, NoSuchUser, StartFailed.
        """
        from shipway.runtime.containers import execution  # late, as above

        files = self._files(container_id)
        lifecycle.check(self._observer, files, "exec")
        self._observer.await_program(files, PROGRAM_TIMEOUT)
        record = files.read_record()
        layers = self._root(record.digest or record.image).layers if program.user else ()
        return execution.begin(self._tools, files, program, layers)

    # -- looking --------------------------------------------------------------------------------

    def list(self) -> list[Container]:
        """All containers, in the order of their ids."""
        self.sweep()
        found = []
        for container_id in self._ids():
            try:
                found.append(self.get(container_id))
            except NoSuchContainer:
                continue
        return found

    def get(self, container_id: str) -> Container:
        """One container as it is now. Raises NoSuchContainer."""
        return self._observer.container(self._files(container_id))

    def files(self, container_id: str) -> Files:
        """The paths of a container, there or not."""
        return self._files(container_id)

    def log_path(self, container_id: str) -> Path:
        """Where a container's log may lie so that it is removed with the container."""
        return self._files(container_id).folder / "output.log"

    def spec(self, container_id: str) -> ContainerSpec:
        """What a kept container was created with. Raises NotKept, NoSuchContainer."""
        return lifecycle.saved_spec(self._files(container_id))

    def digest(self, container_id: str) -> str:
        """The digest of the image that a container was made of; empty if it was not noted."""
        return self._files(container_id).read_record().digest

    def command(self, container_id: str) -> tuple[str, ...]:
        """The command line of a container; empty if nothing tells it."""
        return lifecycle.command(self._files(container_id))

    def attach(self, container_id: str) -> "Attachment":
        """The streams of a container that runs, or is about to. The caller closes them.

        Raises IllegalMove, NoSuchContainer.
        """
        # Imported late, like all that few of the engine's callers use.
        from shipway.runtime.containers.attach import Attachment

        files = self._files(container_id)
        if not self._tools.runtime.awaits_start(container_id):
            lifecycle.check(self._observer, files, "attach")
        lifecycle.tell(files, "attach")
        return Attachment(files.bundle)

    def pidfds(self, container_id: str) -> builtins.list[int]:
        """New pidfds of the container's init and its monitor, as far as they live.

        One turns readable when its process dies. The caller closes them.
        """
        files = self._files(container_id)
        pids = (self._observer.init_pid(files), self._observer.monitor_pid(files))
        opened = [open_pidfd(pid) for pid in pids if pid]
        return [fd for fd in opened if fd is not None]

    def ports(self, container_id: str) -> builtins.list[Published]:
        """Where the container's ports are published, in order. Raises NoSuchContainer."""
        self._files(container_id).read_record()
        return self._tools.wiring.published().get(container_id, [])

    def all_ports(self) -> dict[str, builtins.list[Published]]:
        """The published ports of each container that has some."""
        return self._tools.wiring.published()

    def stats(self, container_ids: Iterable[str]) -> "dict[str, Stats]":
        """What the containers use now; those that are gone are left out."""
        # Here and below imported late: who only starts containers does not look.
        from shipway.runtime.containers import looking

        return looking.stats(self._tools, [check_id(each) for each in container_ids])

    def log(self, container_id: str) -> "LogReader":
        """A reader of the container's log. Raises NoSuchContainer, NoLog."""
        from shipway.runtime.containers import looking

        return looking.log(self._files(container_id))

    def follow(
        self, container_id: str, reader: "LogReader", timeout: float | None = None
    ) -> "Iterator[Line | None]":
        """What `reader` has not given out yet and what comes, until the container ends.

        A None among the lines says that these are all for now; it comes at least each `timeout`
        seconds. Raises HostUnfit.
        """
        from shipway.runtime.containers import looking

        return looking.follow(self._observer, self._files(container_id), reader, timeout)

    def top(self, container_id: str) -> "builtins.list[Process]":
        """The container's processes, with the machine's ids. Raises IllegalMove, NoSuchContainer."""
        from shipway.runtime.observability.top import processes

        files = self._files(container_id)
        lifecycle.check(self._observer, files, "top")
        return processes(self._tools.cgroups.members(container_id))

    def diff(self, container_id: str) -> "builtins.list[Change]":
        """What the container has changed of its image, by path. Raises NoSuchContainer."""
        return self.interior(container_id).changes()

    def interior(self, container_id: str) -> "Interior":
        """The container's file system, to copy from and to. Raises NoSuchContainer."""
        # Imported late: a process that starts containers needs no tar.
        from shipway.runtime.filesystem.interior import Interior

        files = self._files(container_id)
        files.read_record()
        mapping = self._tools.idmapping
        return Interior(self._observer, mapping, files, self._layers_of, self.config.root / "locks")

    def _layers_of(self, files: Files) -> Sequence[Path]:
        record = files.read_record()
        return self._root(record.digest or record.image).layers

    def rotate_logs(
        self,
        container_ids: Iterable[str] | None = None,
        size: int | None = None,
        keep: int | None = None,
    ) -> builtins.list[str]:
        """Set aside the logs that have grown over `size` bytes; the ids of their containers.

        Of each, `keep` older files stay. Without ids of all containers; size and keep are by default
        as each container was made. Idempotent; what a crash cut short is carried to its end. One
        that fails keeps no other from being rotated; RuntimeFailure is raised at the end.
        """
        from shipway.runtime.containers import looking

        ids = self._ids() if container_ids is None else container_ids
        wanted = looking.Rotation(size, keep, self.config.root / "locks")
        return looking.rotate_all(self._observer, [self._files(each) for each in ids], wanted)

    def wait(self, container_id: str, timeout: float | None = None) -> Exit | None:
        """The container's exit, waiting for it at most `timeout` seconds; None if it still runs.

        Raises NoSuchContainer, ContainerLost.
        """
        files = self._files(container_id)
        container = self._observer.container(files)
        if container.state in ("running", "paused", "created"):
            if not ending.await_end(self._observer, files, timeout):
                return None
        found = self._note_exit(files)
        if found is None:
            raise ContainerLost(container_id)
        return found

    # -- ending ---------------------------------------------------------------------------------

    def kill(self, container_id: str, number: int) -> None:
        """Send a signal to the container's init. Raises IllegalMove, NoSuchContainer.

        A paused container gets it when it goes on, but SIGKILL ends it at once.
        """
        ending.kill(self._tools, self._observer, self._files(container_id), number)

    def send(self, container_id: str, number: int) -> None:
        """Send a signal to the container's init if it is there: for signals handed on."""
        pid = read_pid(self._files(container_id).init_pid)
        ending.signal_process(self._tools, container_id, pid, number)

    def pause(self, container_id: str) -> None:
        """Freeze every process of a running container. Raises IllegalMove, NoSuchContainer."""
        with self._lock(container_id):
            lifecycle.pause(self._tools, self._observer, self._files(container_id))

    def unpause(self, container_id: str) -> None:
        """Let a paused container go on. Raises IllegalMove, NoSuchContainer."""
        with self._lock(container_id):
            lifecycle.unpause(self._tools, self._observer, self._files(container_id))

    def stop(
        self, container_id: str, grace: float | None = None, number: int | None = None
    ) -> Exit:
        """End a container: signal `number` to init, `grace` seconds, SIGKILL to all. Idempotent.

        Without them the signal is the specification's, or SIGTERM, and so is the grace, or 30
        seconds. A paused container goes on first.
        """
        files = self._files(container_id)
        found = ending.stop(self._tools, self._observer, files, grace, number)
        self._note_exit(files)
        return found

    def remove(self, container_id: str, force: bool = True) -> None:
        """Kill the container if it lives and delete all of it but its log. Idempotent.

        Without `force` a running one is refused: IllegalMove; an unknown one: NoSuchContainer.
        """
        with self._lock(container_id, discard=True):
            if not force:
                lifecycle.check(self._observer, self._files(container_id), "remove")
            self._remove(self._files(container_id))

    def resolve(self, name: str) -> str:
        """The id meant by a name or the beginning of an id. Raises NoSuchContainer, AmbiguousName."""
        return lifecycle.resolve(self._ids(), name)

    def commit(self, container_id: str, change: "ImageChange", pause: bool = True) -> "Image":
        """Make an image of a container's files; it is paused meanwhile. Raises NoSuchContainer."""
        from shipway.runtime.filesystem import snapshots  # rarely used, and not needed for a start

        files = self._files(container_id)
        with self._lock(container_id):
            return snapshots.commit(self._tools, self._observer, files, self.images, change, pause)

    def export(self, container_id: str, output: "Writable") -> None:
        """Write the tar of all files of a container. Raises NoSuchContainer."""
        from shipway.runtime.filesystem import snapshots  # rarely used, and not needed for a start

        with self._lock(container_id):
            snapshots.export(self._tools, self._files(container_id), self.images, output)

    def settle(self, container_id: str) -> None:
        """Do what is due once a container has ended: note it, and remove it if that is asked.

        Whoever waits for a container does it, so it is here for what nobody waited for.
        """
        files = self._files(container_id)
        self._note_exit(files)
        if files.caller.exists():
            with self._lock(container_id):
                self._sweep(files)

    def sweep(self) -> None:
        """Clear what starts and removals left whose caller was killed; other calls do so too."""
        sweeping.sweep(self._tools, self.config.root, self.config.run)

    # -- parts ----------------------------------------------------------------------------------

    @cached_property
    def _tools(self) -> Tools:
        return assemble(self.config, self.images, self._is_up, self._exposed)

    @cached_property
    def networks(self) -> Networks:
        """The named networks."""
        return Networks(self._tools.wiring, self._files)

    @cached_property
    def _observer(self) -> Observer:
        return Observer(self._tools.cgroups, self._tools.runtime)

    def _files(self, container_id: str) -> Files:
        return Files(self.config.root, self.config.run, check_id(container_id))

    @cached_property
    def _paths(self) -> Callable[[str], Files]:
        """`_files`, remembered: a network's members are asked for at each change of one."""
        return lru_cache(4096)(self._files)

    def _is_up(self, container_id: str) -> bool:
        """Whether a container runs, or is being started: a cheap look."""
        files = self._paths(container_id)
        if files.exit.exists() or not files.folder.is_dir():
            return False
        return not files.init_pid.exists() or self._observer.init_pid(files) != 0

    def _exposed(self, container_id: str) -> tuple[Publish, ...]:
        """The ports that a container's image exposes, as wishes for any port of the host."""
        record = self._files(container_id).read_record()
        image = self.images.get(record.digest or record.image)
        return tuple(port for text in image.config.exposed_ports for port in parse_exposed(text))

    def _ids(self) -> builtins.list[str]:
        return sorted(os.listdir(self.config.root / "containers"))

    @contextmanager
    def _lock(self, container_id: str, discard: bool = False) -> Iterator[None]:
        with locked(self.config.root / "locks" / check_id(container_id), discard):
            yield

    def _root(self, image_name: str) -> Root:
        image = self.images.get(image_name)
        return Root(self.images.trees(image), image.config.env, image.digest)

    def _remove(self, files: Files) -> None:
        lifecycle.note_exit(self._observer, files)
        lifecycle.tell(files, "destroy")
        removal.remove(self._tools, files)

    def _note_exit(self, files: Files) -> Exit | None:
        """The exit of a container, if it ended: noted, and its ports are free for others."""
        found = lifecycle.note_exit(self._observer, files)
        if found is not None and self._tools.wiring.is_wired(files.id):
            with self._lock(files.id):
                if self._observer.exit(files) is not None:  # nobody has started it meanwhile
                    self._tools.wiring.disconnect(files.id)
        return found

    def _sweep(self, files: Files) -> None:
        """Remove a container that was to be removed at its end, if whoever should did not."""
        try:
            container = self._observer.container(files)
        except NoSuchContainer:
            return
        if lifecycle.must_be_swept(container, files):
            self._remove(files)

    def _launch(
        self,
        spec: ContainerSpec,
        output: int | None,
        prepared: Callable[[int], None] | None = None,
    ) -> None:
        files = self._files(spec.id)
        with self.images.pinned():
            root = self._root(spec.image)
            once.run(self._tools, self._observer, files, spec, root, output, prepared)

    def _follow(
        self,
        container_id: str,
        reader: int,
        output: "Output",
        cancelled: threading.Event | None,
        deadline: float | None,
    ) -> Exit:
        from shipway.runtime.containers.foreground import Patience, pump  # late, as above

        files = self._files(container_id)
        try:
            monitor = open_pidfd(self._observer.monitor_pid(files))
            try:
                pump(reader, monitor, output, Patience(cancelled, deadline))
            finally:
                if monitor is not None:
                    os.close(monitor)
            found = self.wait(container_id)
        finally:
            self.remove(container_id)
        if found is None:
            raise ContainerLost(container_id)
        return found
