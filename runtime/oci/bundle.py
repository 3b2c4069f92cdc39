"""A container's specification as the `config.json` of the OCI runtime specification. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shipway.runtime.oci import seccomp
from shipway.runtime.spec import NESTING_CAPABILITIES, ContainerSpec, Limits, Mount

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD_USEC = 100_000
SHM_BYTES = 64 * 1024 * 1024
TMP_BYTES = 256 * 1024 * 1024
# Of each file system in memory: empty files would else be bounded by the memory limit alone.
INODES = "nr_inodes=65536"
DEFAULT_NOFILE = 65536

# Docker's lists. A file that this kernel does not have is left out by the runtime.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys/fs/cgroup",  # with cgroup v1 a tmpfs that the runtime leaves writable
)

# Character devices that every program expects: (major, minor).
DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))


Ipv6 = Literal["absent", "off", "on"]

# Kernel settings of a container's network, by whether the kernel has IPv6 and the container may.
IPV6_SETTINGS: dict[Ipv6, dict[str, str]] = {
    "absent": {},
    "off": {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"},
    "on": {"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv6.conf.default.accept_ra": "0"},
}


@dataclass(frozen=True)
class Place:
    """Something the engine has mounted at `source`, to be bound at `target` in the container."""

    source: Path
    target: str
    readonly: bool


@dataclass(frozen=True)
class Host:
    """What the configuration takes from the machine and from this process.

    `nofile` is the hard limit of open files; `oom_score_adj` how readily the kernel ends this process
    when memory runs out (-1000 to 1000, the higher the sooner). `masked` and `readonly` are paths
    that only some machines have; `apparmor` names a profile.
    """

    rootfs: Path
    cgroup: str
    nofile: int
    oom_score_adj: int = 0
    cgroup_mount: bool = True
    ipv6: Ipv6 = "off"
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    apparmor: str | None = None


def config(
    spec: ContainerSpec, host: Host, places: Sequence[Place], image_env: Mapping[str, str]
) -> dict[str, Any]:
    """The document for `spec`. `places` are its binds and overlays, already id-mapped."""
    # The profile refuses every mount.
    confined = {"apparmorProfile": host.apparmor} if host.apparmor and not spec.nesting else {}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(host.rootfs), "readonly": spec.readonly_root},
        "hostname": spec.hostname or hostname_for(spec.id),
        "process": process(spec, spec.args, {**image_env, **spec.env}, host) | confined,
        "mounts": [*_system_mounts(spec, host), *_own_mounts(spec, places)],
        "linux": _linux(spec, host),
    }


def hostname_for(container_id: str) -> str:
    """A host name for a container that asks for none."""
    return container_id.replace(".", "-").replace("_", "-").strip("-").lower()


def process(
    spec: ContainerSpec, args: Sequence[str], env: Mapping[str, str], host: Host
) -> dict[str, Any]:
    """The OCI `process` object of the container's first process."""
    capabilities = sorted(NESTING_CAPABILITIES if spec.nesting else spec.capabilities)
    held = ["bounding", "effective", "permitted"]
    if spec.uid != 0:
        # Without these, a program run by an unprivileged user loses what was granted.
        held += ["inheritable", "ambient"]
    return {
        "terminal": spec.terminal,
        **console_size(spec.console),
        "user": {"uid": spec.uid, "gid": spec.gid, **_groups(spec)},
        "args": list(args),
        "env": environment(env),
        "cwd": spec.cwd,
        "capabilities": dict.fromkeys(held, capabilities),
        "rlimits": [
            _rlimit("RLIMIT_NOFILE", min(spec.limits.nofile or DEFAULT_NOFILE, host.nofile)),
            _rlimit("RLIMIT_CORE", 0),
        ],
        # Protection from the kernel's memory killer is ours, and shall not be inherited. Lowering it needs a capability.
        "oomScoreAdj": max(host.oom_score_adj, 0),
        "noNewPrivileges": True,
    }


def console_size(size: tuple[int, int] | None) -> dict[str, Any]:
    """The first size of a terminal, rows and columns; nothing if it is not known."""
    return {"consoleSize": {"height": size[0], "width": size[1]}} if size else {}


def _groups(spec: ContainerSpec) -> dict[str, Any]:
    return {"additionalGids": list(spec.groups)} if spec.groups else {}


def environment(env: Mapping[str, str]) -> list[str]:
    """NAME=value lines; PATH always among them."""
    return [f"{name}={value}" for name, value in {"PATH": DEFAULT_PATH, **env}.items()]


def _rlimit(name: str, value: int) -> dict[str, Any]:
    return {"type": name, "hard": value, "soft": value}


def _system_mounts(spec: ContainerSpec, host: Host) -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]
    dev = ["nosuid", "strictatime", "mode=755", "size=65536k", INODES]
    mounts = [
        _mount("proc", "proc", "/proc", safe),
        _mount("tmpfs", "tmpfs", "/dev", dev),
        _mount(
            "devpts",
            "devpts",
            "/dev/pts",
            # The host has 4096 terminals for all; no container may take them all.
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=256"],
        ),
        _mount("tmpfs", "shm", "/dev/shm", [*safe, "mode=1777", f"size={SHM_BYTES}", INODES]),
        _mount("sysfs", "sysfs", "/sys", [*safe, "ro"]),
    ]
    if host.cgroup_mount:
        # Language runtimes size their heaps and pools by the limits they read here.
        mounts.append(_mount("cgroup", "cgroup", "/sys/fs/cgroup", [*safe, "relatime", "ro"]))
    if spec.readonly_root and not any(mount.target == "/tmp" for mount in spec.mounts):
        options = ["nosuid", "nodev", "mode=1777", f"size={TMP_BYTES}", INODES]
        mounts.append(_mount("tmpfs", "tmpfs", "/tmp", options))
    return mounts


def _own_mounts(spec: ContainerSpec, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Those that were asked for; what lies deeper comes later, else it would be covered."""
    binds = [_bind(place) for place in places]
    tmpfs = [_tmpfs(mount) for mount in spec.mounts if mount.kind == "tmpfs"]
    return sorted([*binds, *tmpfs], key=lambda each: len(PurePosixPath(each["destination"]).parts))


def _mount(kind: str, source: str, target: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(place: Place) -> dict[str, Any]:
    options = ["bind", "nosuid", "nodev", "ro" if place.readonly else "rw"]
    return _mount("bind", str(place.source), place.target, options)


def _tmpfs(mount: Mount) -> dict[str, Any]:
    given = {option.partition("=")[0] for option in mount.options}
    bounds = [
        *([] if "size" in given else [f"size={TMP_BYTES}"]),
        *([] if "nr_inodes" in given else [INODES]),
    ]
    options = ["nosuid", "nodev", *(["ro"] if mount.readonly else []), *mount.options, *bounds]
    return _mount("tmpfs", "tmpfs", mount.target, options)


def _linux(spec: ContainerSpec, host: Host) -> dict[str, Any]:
    mapping = [{"containerID": 0, "hostID": spec.ids.base, "size": spec.ids.size}]
    kinds = ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"]
    return {
        "namespaces": [{"type": kind} for kind in kinds],
        "uidMappings": mapping,
        "gidMappings": mapping,
        "cgroupsPath": host.cgroup,
        "resources": resources(spec.limits),
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", **IPV6_SETTINGS[host.ipv6]},
        "seccomp": (
            seccomp.nesting_profile() if spec.nesting else seccomp.profile(spec.capabilities)
        ),
        "maskedPaths": [*MASKED_PATHS, *host.masked],
        "readonlyPaths": [*READONLY_PATHS, *host.readonly],
    }


def resources(limits: Limits) -> dict[str, Any]:
    """Limits as the OCI `linux.resources` object; those of io are cgroups.py's.

    Swap counts within the memory limit unless something else is asked for.
    """
    found: dict[str, Any] = {"devices": _device_rules()}
    memory: dict[str, int] = {}
    if limits.memory is not None:
        memory = {"limit": limits.memory, "swap": limits.memory_swap or limits.memory}
    if limits.memory_reservation is not None:
        memory["reservation"] = limits.memory_reservation
    if memory:
        found["memory"] = memory
    if limits.pids is not None:
        found["pids"] = {"limit": limits.pids}
    cpu: dict[str, int | str] = {}
    if limits.cpuset_cpus is not None:
        cpu["cpus"] = limits.cpuset_cpus
    if limits.cpu_shares is not None:
        cpu["shares"] = limits.cpu_shares
    if limits.cpus is not None:
        cpu |= {"quota": round(limits.cpus * CPU_PERIOD_USEC), "period": CPU_PERIOD_USEC}
    return found | ({"cpu": cpu} if cpu else {})


def _device_rules() -> list[dict[str, Any]]:
    allowed = [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rw"}
        for major, minor in DEVICES
    ]
    terminals = {"allow": True, "type": "c", "major": 136, "access": "rw"}
    return [{"allow": False, "access": "rwm"}, *allowed, terminals]
