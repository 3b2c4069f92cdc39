"""The container engine: a library, no daemon. Threads and processes may share one engine root."""

import builtins
import json
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from shipway.runtime import host, oci, removal
from shipway.runtime.cgroups import Cgroups, Stats
from shipway.runtime.config import EngineConfig
from shipway.runtime.conmon import find_conmon
from shipway.runtime.containers import (
    SIGKILL_CODE,
    Container,
    Exit,
    Files,
    Observer,
    open_pidfd,
    read_pid,
    wait_for_end,
)
from shipway.runtime.errors import (
    ContainerExists,
    ContainerLost,
    EngineBusy,
    HostUnfit,
    NoSuchContainer,
)
from shipway.runtime.files import atomic_write, locked
from shipway.runtime.foreground import Output, Patience, pump, run_streamed
from shipway.runtime.images.layers import LayerStore
from shipway.runtime.images.store import ImageStore
from shipway.runtime.launch import Root, Tools, launch
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.network.bridge import Network
from shipway.runtime.ociruntime import find_runtime
from shipway.runtime.spec import ContainerSpec, check_env, check_id

PROGRAM_TIMEOUT = 10.0
SETUP_REMEDY = "the engine must be root on a host of its own, not in a container"


class Engine:
    """Containers, images and layers of this machine."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        for folder in (config.root, config.root / "containers", config.root / "locks", config.run):
            folder.mkdir(parents=True, exist_ok=True)
        self.layers = LayerStore(config.root)
        self.images = ImageStore(config.root, self.layers)

    # -- the machine ----------------------------------------------------------------------------

    def setup(self) -> None:
        """Make bridge, firewall, kernel settings and control groups. Idempotent. HostUnfit."""
        host.check_host()
        with locked(self.config.root / "locks/.setup"):
            try:
                self._tools.cgroups.setup()
                self._tools.runtime.root.mkdir(parents=True, exist_ok=True)
                self._tools.network.setup()
                self.config.save()
            except OSError as error:
                raise HostUnfit(f"the host refuses a setting ({error})", SETUP_REMEDY) from error

    def info(self) -> dict[str, Any]:
        """Versions and features of the machine, for people."""
        tools = self._tools
        return {
            "runtime": tools.runtime.name,
            "runtime_version": tools.runtime.version,
            "cgroups": tools.cgroups.version,
            "kernel": platform.release(),
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

    # -- starting -------------------------------------------------------------------------------

    def run(self, spec: ContainerSpec) -> Container:
        """Create and start a container. On any error nothing of it is left.

        An earlier container of that id that no longer runs, or never came to run, is replaced.
        Raises ContainerExists, NoSuchImage, StartFailed.
        """
        with self._lock(spec.id):
            self._launch(spec, None)
        return self.get(spec.id)

    def execute(
        self,
        spec: ContainerSpec,
        output: Output,
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
    ) -> Exit:
        """Run a container to its end, handing on stdout and stderr; then remove it.

        `timeout` is in seconds. Raises as `run`, and Cancelled, TimedOut, ContainerLost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        reader, writer = os.pipe()
        try:
            try:
                with self._lock(spec.id):
                    self._launch(spec, writer)
            finally:
                os.close(writer)
            return self._follow(spec.id, reader, output, Patience(cancelled, deadline))
        finally:
            os.close(reader)

    def execute_in(
        self,
        container_id: str,
        args: tuple[str, ...],
        env: Mapping[str, str] | None = None,
        output: Output | None = None,
        timeout: float | None = None,
    ) -> Exit:
        """Run one more program in a running container, as its user, with its environment and `env`."""
        check_env(env or {})
        files = self._files(container_id)
        if self.get(container_id).state != "running":
            raise NoSuchContainer(container_id)
        self._observer.await_program(files, PROGRAM_TIMEOUT)
        document = files.bundle / f"exec-{secrets.token_hex(4)}.json"
        pid_file = document.with_suffix(".pid")
        atomic_write(document, self._process(files, args, env or {}), durable=False)
        try:
            argv = self._tools.runtime.execute(container_id, document, pid_file)
            code = run_streamed(argv, output or _drop, timeout)
        except BaseException:
            self._kill_process(container_id, read_pid(pid_file))
            raise
        finally:
            document.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)
        return Exit(code, False, time.time())

    # -- looking --------------------------------------------------------------------------------

    def list(self) -> list[Container]:
        """All containers, in the order of their ids."""
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

    def pidfds(self, container_id: str) -> builtins.list[int]:
        """New pidfds of the container's init and its monitor, as far as they live.

        One turns readable when its process dies. The caller closes them.
        """
        files = self._files(container_id)
        pids = (self._observer.init_pid(files), self._observer.monitor_pid(files))
        opened = [open_pidfd(pid) for pid in pids if pid]
        return [fd for fd in opened if fd is not None]

    def stats(self, container_ids: Iterable[str]) -> dict[str, Stats]:
        """What the containers use now; those that are gone are left out."""
        found = {each: self._tools.cgroups.stats(check_id(each)) for each in container_ids}
        return {each: stats for each, stats in found.items() if stats is not None}

    def wait(self, container_id: str, timeout: float | None = None) -> Exit | None:
        """The container's exit, waiting for it at most `timeout` seconds; None if it still runs.

        Raises NoSuchContainer, ContainerLost.
        """
        files = self._files(container_id)
        container = self._observer.container(files)
        if container.state in ("running", "created"):
            fd = open_pidfd(self._observer.monitor_pid(files))
            if fd is not None:
                try:
                    if not wait_for_end([fd], timeout):
                        return None
                finally:
                    os.close(fd)
        found = self._observer.exit(files)
        if found is None:
            raise ContainerLost(container_id)
        return found

    # -- ending ---------------------------------------------------------------------------------

    def kill(self, container_id: str, number: int) -> None:
        """Send a signal to the container's init; nothing happens if that is dead."""
        files = self._files(container_id)
        files.read_record()
        self._kill_process(container_id, read_pid(files.init_pid), number)

    def stop(self, container_id: str, grace: float = 30.0) -> Exit:
        """End a container: SIGTERM to init, `grace` seconds, SIGKILL to all. Idempotent."""
        files = self._files(container_id)
        if self._observer.container(files).state == "running":
            self.kill(container_id, signal.SIGTERM)
            found = self._wait_unless_lost(container_id, grace)
            if found is not None:
                return found
        if self._observer.exit(files) is None:
            # Init goes first: had it seen its children die, it might still end as if all were well.
            self._kill_process(container_id, read_pid(files.init_pid))
            removal.kill_processes(self._tools, files)
        if self._observer.exit(files) is None and files.persist.is_dir():
            # No monitor was there to note it.
            atomic_write(files.exit, str(SIGKILL_CODE).encode(), durable=False)
        found = self._observer.exit(files)
        if found is None:
            raise NoSuchContainer(container_id)
        return found

    def remove(self, container_id: str) -> None:
        """Kill the container if it lives and delete all of it but its log. Idempotent."""
        with self._lock(container_id, discard=True):
            removal.remove(self._tools, self._files(container_id))

    def _kill_process(self, container_id: str, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a process if it is of that container: the pid may be another's by now."""
        fd = open_pidfd(pid)
        if fd is None:
            return
        try:
            if self._tools.cgroups.holds(container_id, pid):
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)

    # -- parts ----------------------------------------------------------------------------------

    @cached_property
    def _tools(self) -> Tools:
        config = self.config
        pool = AddressPool(config.root / "addresses", config.subnet)
        runtime = find_runtime(config.runtime, config.run / ".oci")
        return Tools(
            runtime=runtime,
            conmon=find_conmon(),
            cgroups=Cgroups(config.cgroup),
            network=Network(config.bridge, pool, config.table, config.allow),
            pool=pool,
        )

    @cached_property
    def _observer(self) -> Observer:
        return Observer(self._tools.cgroups, self._tools.runtime)

    def _files(self, container_id: str) -> Files:
        return Files(self.config.root, self.config.run, check_id(container_id))

    def _ids(self) -> builtins.list[str]:
        return sorted(os.listdir(self.config.root / "containers"))

    @contextmanager
    def _lock(self, container_id: str, discard: bool = False) -> Iterator[None]:
        with locked(self.config.root / "locks" / check_id(container_id), discard):
            yield

    def _launch(self, spec: ContainerSpec, output: int | None) -> None:
        files = self._files(spec.id)
        image = self.images.get(spec.image)
        layers = [self.layers.path(layer.diff_id) for layer in reversed(image.layers)]
        self._clear_leftovers(files)
        try:
            launch(self._tools, files, spec, Root(layers, image.config.env), output)
        except BaseException:
            removal.remove(self._tools, files)
            raise

    def _clear_leftovers(self, files: Files) -> None:
        if files.folder.exists() and self._observer.container(files).state == "running":
            raise ContainerExists(files.id)
        if files.folder.exists() or files.bundle.exists():
            removal.remove(self._tools, files)

    def _follow(self, container_id: str, reader: int, output: Output, patience: Patience) -> Exit:
        files = self._files(container_id)
        try:
            monitor = open_pidfd(self._observer.monitor_pid(files))
            try:
                pump(reader, monitor, output, patience)
            finally:
                if monitor is not None:
                    os.close(monitor)
            found = self.wait(container_id)
        finally:
            self.remove(container_id)
        if found is None:
            raise ContainerLost(container_id)
        return found

    def _wait_unless_lost(self, container_id: str, timeout: float) -> Exit | None:
        try:
            return self.wait(container_id, timeout)
        except ContainerLost:
            return None

    def _process(self, files: Files, args: tuple[str, ...], env: Mapping[str, str]) -> bytes:
        process = json.loads(files.config.read_bytes())["process"]
        own = dict(line.split("=", 1) for line in process["env"])
        document = process | {"args": list(args), "env": oci.environment({**own, **env})}
        return json.dumps(document).encode()


def _drop(_chunk: bytes) -> None:
    """Take output that nobody wants."""
