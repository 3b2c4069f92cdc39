"""One start of a container, step by step.

Whatever is made here can be found again from the container's id alone, so a caller that is killed
between any two steps leaves only what `removal.remove` clears.
"""

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from shipway.runtime.commands import run_command
from shipway.runtime.containers import reaper
from shipway.runtime.containers.container import Files, Record, read_pid
from shipway.runtime.containers.idmapping import View
from shipway.runtime.containers.secrets import TARGET
from shipway.runtime.containers.tools import Root, Tools
from shipway.runtime.errors import (
    InvalidSpec,
    ProgramNotExecutable,
    ProgramNotFound,
    StartFailed,
)
from shipway.runtime.kernel import disk, limits, mounts
from shipway.runtime.network import hosts
from shipway.runtime.observability import rotation
from shipway.runtime.oci import apparmor, bundle, conmon
from shipway.runtime.spec import ContainerSpec

LONGEST_SOCKET_PATH = 107
HOSTS = mounts.MOUNT_POINT / "hosts"


def launch(
    tools: Tools,
    files: Files,
    spec: ContainerSpec,
    root: Root,
    output: int | None,
    ready: Callable[[], None],
) -> None:
    """Create and start the container. With `output` its stdout and stderr go there, unlogged."""
    check(tools, files, spec)
    files.create()
    tools.wiring.enrol(spec)
    bring_up(tools, files, spec, root, new_record(spec, root.digest), output, ready)


def new_record(spec: ContainerSpec, digest: str) -> Record:
    """What is written of a container that is made now."""
    log_path = str(spec.log_path) if spec.log_path else None
    return Record(
        spec.id,
        spec.image,
        "",
        dict(spec.labels),
        time.time(),
        log_path,
        digest,
        spec.log_size,
        spec.log_files,
    )


def bring_up(
    tools: Tools,
    files: Files,
    spec: ContainerSpec,
    root: Root,
    record: Record,
    output: int | None,
    ready: Callable[[], None],
) -> None:
    """Start the container whose folders are there. `ready` is called before its program runs."""
    address = tools.pool.lease(spec.id) if spec.network else None
    ip = str(address) if address else ""
    files.write_record(replace(record, ip=ip))
    tools.wiring.lease(spec)
    tools.vault.keep(spec)
    with disk.writable(files.layer, spec.limits.disk) as layer:
        upper = layer.seen / "upper"
        view = tools.idmapping.view(files, spec, root.layers, upper)
        env = {**root.env, **tools.wiring.link_environment(spec)}

        def prepare() -> None:
            with view.as_root():
                has_etc = write_etc(tools, files, upper, spec, address)
            mount_all(tools, files, spec, view, root.volatile, layer)
            # Last: without it nothing can be created, should we be killed before all is mounted.
            write_config(tools, files, spec, env, has_etc)

        pid = create(tools, files, spec, prepare, output)
    limits.apply_io(tools.cgroups, files.id, spec.limits)
    if address is not None:
        tools.network.attach(address, pid)
        tools.wiring.connect(spec.id)
    ready()
    start(tools, files)


def check(tools: Tools, files: Files, spec: ContainerSpec) -> None:
    """Refuse early what this machine cannot do. Raises InvalidSpec, LimitUnsupported."""
    check_paths(files, spec)
    limits.check(tools.cgroups, spec.limits)
    tools.wiring.check(spec)
    make_folders(tools, spec)


def check_paths(files: Files, spec: ContainerSpec) -> None:
    """Refuse early what conmon could only fail at later."""
    if len(str(files.bundle / "attach")) > LONGEST_SOCKET_PATH:
        raise InvalidSpec(
            f"container id {spec.id!r} is too long for the folder {files.bundle.parent}"
        )
    for mount in spec.mounts:
        if mount.kind == "bind" and Path(mount.source).is_symlink():
            raise InvalidSpec(
                f"mount source {mount.source} is a symlink; name the folder or file it points to"
            )
        if mount.kind == "bind" and not mount.make and not Path(mount.source).exists():
            raise InvalidSpec(f"mount source {mount.source} does not exist")
    folder = spec.log_path.parent if spec.log_path else files.folder
    if folder != files.folder and not folder.is_dir():
        raise InvalidSpec(f"the folder of log_path {spec.log_path} does not exist")


def make_folders(tools: Tools, spec: ContainerSpec) -> None:
    """Make the folders to be bound that are to be made, if they are not there. Raises InvalidSpec."""
    for mount in spec.mounts:
        source = Path(mount.source)
        if mount.kind == "bind" and mount.make and not source.exists():
            try:
                source.mkdir(parents=True)
                if not tools.idmapping.by_kernel:
                    os.chown(source, spec.ids.base, spec.ids.base)
            except OSError as error:
                raise InvalidSpec(f"the mount source {source} cannot be made: {error}") from error


def write_etc(
    tools: Tools, files: Files, upper: Path, spec: ContainerSpec, address: IPv4Address | None
) -> bool:
    """Write the files every container gets of its own into its writable layer: no mount needed.

    But /etc/hosts changes while the container runs, so it is a file outside, and mounted. At a second
    start the layer is what the container made of it: no link in it is followed, and where there is no
    folder /etc any more there are no such files, and False is the answer.
    """
    hostname = spec.hostname or bundle.hostname_for(spec.id)
    hosts.write_first(files.hosts, hosts.own_part(hostname, address, spec.extra_hosts))
    resolver = tools.network.resolver().changed(spec.dns, spec.dns_search, spec.dns_options)
    try:
        (upper / "etc").mkdir()
        (upper / "etc").chmod(0o755)
    except FileExistsError:
        pass
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        etc = os.open(upper / "etc", flags)
    except OSError:
        return False
    try:
        _write(etc, "hosts", "")
        _write(etc, "hostname", f"{hostname}\n")
        _write(etc, "resolv.conf", resolver.resolv_conf() if spec.network else "")
    finally:
        os.close(etc)
    return True


def _write(folder: int, name: str, text: str) -> None:
    """Replace a file of an open folder by a new one."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "w") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)


def write_config(
    tools: Tools, files: Files, spec: ContainerSpec, env: Mapping[str, str], has_etc: bool
) -> None:
    """Write the OCI bundle's config.json."""
    host = bundle.Host(
        rootfs=mounts.ROOTFS,
        cgroup=tools.cgroups.container_path(spec.id),
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        ipv6=tools.network.ipv6_inside(spec.network),
        masked=masked_for_each_cpu(),
        # crun leaves these writable when it makes the folder above them read-only.
        readonly=tuple(str(each.mount) for each in tools.cgroups.hierarchies if not each.unified),
        apparmor=apparmor.profile_name(),
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
    )
    document = bundle.config(spec, host, places(spec, has_etc), env)
    files.config.write_text(json.dumps(document))
    files.config.chmod(0o600)


@cache
def masked_for_each_cpu() -> tuple[str, ...]:
    """What tells of the processors' heat, and so of what others do; virtual machines have none."""
    folders = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    return tuple(sorted(map(str, folders)))


def places(spec: ContainerSpec, has_etc: bool) -> list[bundle.Place]:
    """Where the engine mounts the container's overlays and binds before the runtime moves them."""
    found = [bundle.Place(HOSTS, "/etc/hosts", readonly=True)] if has_etc else []
    found += [
        bundle.Place(mounts.MOUNT_POINT / f"overlay{number}", overlay.target, readonly=False)
        for number, overlay in enumerate(spec.overlays)
    ]
    found += [
        bundle.Place(mounts.MOUNT_POINT / f"bind{number}", mount.target, mount.readonly)
        for number, mount in enumerate(spec.mounts)
        if mount.kind == "bind"
    ]
    if spec.secrets:
        found.append(bundle.Place(mounts.MOUNT_POINT / "secrets", TARGET, readonly=True))
    return found


def create(
    tools: Tools,
    files: Files,
    spec: ContainerSpec,
    prepare: Callable[[], None],
    output: int | None,
) -> int:
    """Have conmon create the container; returns init's pid.

    `prepare` makes its configuration, and its mounts in the mount namespace that conmon is in.
    """
    if output is None:
        log, streams = conmon.log_argument(spec.log_path), subprocess.DEVNULL
    else:
        log, streams = conmon.PASSTHROUGH, output
    monitor = conmon.Monitor(
        container_id=spec.id,
        bundle=files.bundle,
        persist=files.persist,
        pid_file=files.monitor_pid,
        init_pid_file=files.init_pid,
        log=log,
        runtime_log=files.runtime_log,
        terminal=spec.terminal,
        stdin=spec.stdin,
        # A terminal's input must not end with the first who detaches from it.
        leave_stdin_open=spec.terminal or not spec.stdin_once,
        exit_command=reaper.exit_command(files) if spec.auto_remove else (),
    )
    argv = conmon.conmon_argv(tools.conmon, tools.runtime, monitor)

    def adopt_and_prepare(monitor: int) -> None:
        tools.cgroups.adopt_monitor(monitor)
        prepare()

    def create_apart() -> int:
        mounts.mount_private_tmpfs()
        tools.cgroups.enter_monitors()
        tools.cgroups.hasten_moves()
        return conmon.create_container(argv, files.bundle, streams, adopt_and_prepare)

    try:
        pid = mounts.in_own_mount_namespace(create_apart)
        if spec.log_path is not None:
            rotation.bound(read_pid(files.monitor_pid), spec.log_size)
        return pid
    except StartFailed as error:
        reason = last_error(files.runtime_log) or str(error)
        raise start_error(f"container {spec.id} could not be created: {reason}") from error


def start_error(message: str) -> StartFailed:
    """What the OCI runtime says, as the error that it is."""
    if any(words in message for words in ("executable file", "no such file or directory")) and (
        "not found" in message or "exec" in message
    ):
        return ProgramNotFound(message)
    refused = "ermission denied" in message or "not permitted" in message
    if refused and ("exec" in message or "is not a regular file" in message):
        return ProgramNotExecutable(message)
    return StartFailed(message)


def mount_all(
    tools: Tools,
    files: Files,
    spec: ContainerSpec,
    view: View,
    volatile: bool,
    layer: disk.Layer,
) -> None:
    """Mount the root file system, then the container's overlays and binds at their places."""
    namespace = view.namespace
    scratch = mounts.MOUNT_POINT / "layers"
    scratch.mkdir()
    mounts.ROOTFS.mkdir()
    own = layer.attach(mounts.MOUNT_POINT / disk.PLACE)
    mounts.mount_overlay(
        mounts.ROOTFS, view.layers, own / "upper", own / "work", scratch, namespace, volatile
    )
    check_root(mounts.ROOTFS, spec)
    HOSTS.touch()
    mounts.bind_idmapped(files.hosts, HOSTS, namespace, readonly=True)
    for number, overlay in enumerate(view.overlays):
        scratch = mounts.MOUNT_POINT / f"layers{number}"
        scratch.mkdir()
        place = mounts.MOUNT_POINT / f"overlay{number}"
        place.mkdir()
        mounts.mount_overlay(place, overlay.lower, overlay.upper, overlay.work, scratch, namespace)
    for number, mount in enumerate(spec.mounts):
        if mount.kind == "bind":
            place = mounts.MOUNT_POINT / f"bind{number}"
            mounts.bind_idmapped(mount.source, place, namespace, mount.readonly)
    if spec.secrets:
        place = mounts.MOUNT_POINT / "secrets"
        place.mkdir()
        mounts.bind(tools.vault.folder(spec.id), place)


def check_root(rootfs: Path, spec: ContainerSpec) -> None:
    """Refuse a root file system with a link where the OCI runtime works before it moves inside.

    crun before 1.28 and runc before 1.5 (and 1.3.6, 1.4.3) follow a link at /dev to the host, and
    make files there (CVE-2026-47766, CVE-2026-41579).
    """
    for name in ("dev", "proc", "sys"):
        place = rootfs / name
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise StartFailed(
                f"image {spec.image} has no folder at /{name}, where the container gets its own;"
                " make it a folder, or leave it out"
            )


def start(tools: Tools, files: Files) -> None:
    """Let the created container's program run."""
    result = run_command(tools.runtime.start(files.id))
    # A program that ends at once can make the runtime's start fail although all went well.
    if result.returncode != 0 and not files.exit.exists():
        raise start_error(f"container {files.id} could not be started: {result.stderr.strip()}")
    files.note_started()


def last_error(log: Path) -> str:
    """The last thing that the OCI runtime wrote to its log, which has one JSON object a line."""
    try:
        return str(json.loads(log.read_bytes().splitlines()[-1])["msg"])
    except (OSError, IndexError, ValueError, KeyError):
        return ""
