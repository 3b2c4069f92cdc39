"""What a caller asks for: a container's specification, checked before anything is touched."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Literal

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.network.named import check_host_name, check_network_name
from shipway.runtime.network.publish import Publish

ID_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
USER_PATTERN = re.compile(r"(\d{1,7}):(\d{1,7})")
HOSTNAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9-]{1,63})*")
CPUS_PATTERN = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
ENV_NAME_PATTERN = re.compile(r"[^=\0]+")
MINIMUM_MEMORY = 4 * 1024 * 1024
MINIMUM_LOG = 64 * 1024
DEFAULT_LOG = 64 * 1024 * 1024
MINIMUM_DISK = 16 * 1024 * 1024
MAXIMUM_DISK = 16 * 1024**4
SECRET_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
SECRETS_BYTES = 512 * 1024

# What Docker grants by default, less the raw network and device making. Nothing more can be asked.
GRANTABLE_CAPABILITIES = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)

# What a tool needs that makes images inside a container. All of it holds in the container alone.
NESTING_CAPABILITIES = GRANTABLE_CAPABILITIES | {"CAP_SYS_ADMIN"}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidSpec(message)


def check_id(container_id: str) -> str:
    """Return the id, or raise InvalidSpec: ids become file, cgroup and lock names."""
    _require(
        ID_PATTERN.fullmatch(container_id) is not None,
        f"container id {container_id!r} must be 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-',"
        " beginning with a letter or digit",
    )
    return container_id


# Here the kernel answers for the runtime while it sets a container up: nobody may speak for it.
KERNELS_OWN = ("/proc", "/sys")


def _check_target(target: str) -> None:
    parts = PurePosixPath(target).parts
    _require(
        target.startswith("/") and len(parts) > 1 and ".." not in parts and "\0" not in target,
        f"mount target {target!r} must be an absolute path below / without '..'",
    )
    _require(
        not any(PurePosixPath(target).is_relative_to(path) for path in KERNELS_OWN),
        f"mount target {target!r} must not lie in /proc or /sys",
    )


@dataclass(frozen=True)
class IdRange:
    """Host ids `base`..`base+size-1`, onto which a user namespace maps its ids 0..size-1."""

    base: int
    size: int = 65536

    def __post_init__(self) -> None:
        _require(self.base >= 1 and self.size >= 1, "an id range starts at 1 or later, not empty")
        _require(self.base + self.size <= 2**32 - 1, "an id range must end below 2**32 - 1")


# Stands for a range of the container's own, which the engine allots and frees.
ALLOT = IdRange(0x8000_0000)


@dataclass(frozen=True)
class Mount:
    """A bind of a host path, or a tmpfs. Ids on a bound disk are the container's own ids.

    `options` of a tmpfs: "size=BYTES", "mode=OCTAL". With `make` a bound folder that is not there is
    made, for the container's root.

    Where mounts cannot be id-mapped, ids on a bound disk are the host's. But an `own` folder is used
    by nobody else as long as the container is there: its files are given to the container for a
    start, and have the container's own ids again when it is removed.
    """

    source: str
    target: str
    readonly: bool = False
    kind: Literal["bind", "tmpfs"] = "bind"
    options: tuple[str, ...] = ()
    own: bool = False
    make: bool = False

    def __post_init__(self) -> None:
        _check_target(self.target)
        _require(self.kind in ("bind", "tmpfs"), f"mount kind {self.kind!r} is not bind or tmpfs")
        if self.kind == "bind":
            _require(self.source.startswith("/"), f"mount source {self.source!r} must be absolute")


@dataclass(frozen=True)
class Overlay:
    """An overlay inside the container; `lower` is topmost first.

    `upper` and `work` lie in one directory that holds nothing else; ids on disk are the container's.
    Where mounts cannot be id-mapped they are the machine's from a start to the removal, and a `lower`
    that is no layer of the engine's is shown as it is.
    """

    target: str
    lower: tuple[Path, ...]
    upper: Path
    work: Path

    def __post_init__(self) -> None:
        _check_target(self.target)
        _require(bool(self.lower), f"the overlay at {self.target} needs at least one lower layer")
        _require(
            self.upper.parent == self.work.parent and self.upper != self.work,
            f"upper and work of the overlay at {self.target} must be two folders of one directory",
        )


@dataclass(frozen=True)
class IoRate:
    """At most `rate` bytes (`unit` "bps") or operations ("iops") a second of a disk like /dev/sda."""

    device: str
    verb: Literal["read", "write"]
    unit: Literal["bps", "iops"]
    rate: int

    def __post_init__(self) -> None:
        _require(self.device.startswith("/dev/"), f"{self.device!r} is no device below /dev")
        _require(self.rate >= 1, f"the rate for {self.device} must be 1 or more")


def parse_cpus(text: str) -> set[int]:
    """The CPUs of a list like "0-2,4", or InvalidSpec."""
    match = CPUS_PATTERN.fullmatch(text)
    _require(match is not None, f"cpuset_cpus {text!r} must be a list like 0-2,4")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus = range(int(first), int(last or first) + 1)
        _require(bool(cpus), f"cpuset_cpus {text!r} must be a list like 0-2,4")
        found.update(cpus)
    return found


@dataclass(frozen=True)
class Limits:
    """Memory in bytes, `cpus` in whole CPUs, `pids` and `nofile` as counts; None is no limit.

    `memory_swap` is memory and swap together, -1 for any swap; without it there is no swap beyond
    `memory`. `memory_reservation` is what the kernel tries to leave it when memory is short.
    `cpuset_cpus` is a list like "0-2,4". `io_weight` is its share of a busy disk, and `io_rates`
    bound what it does to disks.
    `disk` is the size in bytes of all that the container writes outside of its mounts.
    """

    memory: int | None = None
    cpu_shares: int | None = None
    cpus: float | None = None
    pids: int | None = None
    nofile: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    cpuset_cpus: str | None = None
    io_weight: int | None = None
    io_rates: tuple[IoRate, ...] = ()
    disk: int | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            _require(self.memory >= MINIMUM_MEMORY, "a memory limit must be 4 MiB or more")
        if self.memory_swap is not None:
            _require(self.memory is not None, "memory_swap needs a memory limit beside it")
            _require(
                self.memory_swap == -1 or self.memory_swap >= (self.memory or 0),
                "memory_swap is memory and swap together: -1, or as much as memory or more",
            )
        if self.memory_reservation is not None:
            _require(
                MINIMUM_MEMORY <= self.memory_reservation <= (self.memory or 2**63),
                "memory_reservation must be 4 MiB or more, and no more than memory",
            )
        if self.cpuset_cpus is not None:
            parse_cpus(self.cpuset_cpus)
        if self.io_weight is not None:
            _require(10 <= self.io_weight <= 1000, "io_weight must be within 10 and 1000")
        if self.cpu_shares is not None:
            _require(2 <= self.cpu_shares <= 262144, "cpu_shares must be within 2 and 262144")
        if self.cpus is not None:
            _require(self.cpus >= 0.01, "cpus must be 0.01 or more")
        if self.disk is not None:
            _require(
                MINIMUM_DISK <= self.disk <= MAXIMUM_DISK,
                "a disk limit must be within 16 MiB and 16 TiB",
            )
        for name in ("pids", "nofile"):
            count = getattr(self, name)
            _require(count is None or count >= 1, f"{name} must be 1 or more")


@dataclass(frozen=True)
class ContainerSpec:
    """All that makes a container. `user` is numeric, "uid:gid", as seen inside; so are `groups`.

    `image` is a reference or manifest digest of the local image store. Standard output and error
    go to `log_path` in the k8s-file format; without one they are dropped. At `log_size` bytes that
    file is due to be set aside (`Engine.rotate_logs`), and `log_files` of them are kept in all.

    With `terminal` the program's streams are a terminal, of `console` rows and columns at first;
    with `stdin` it can be written to by who attaches, and with `stdin_once` its input ends when the
    first of these goes. `auto_remove` has the container removed when it ends. `stop` sends
    `stop_signal` and waits `stop_timeout` seconds.

    `publish_all` publishes the ports that the image exposes, beside `ports`. `networks` are named
    ones, in all of which the container has also the names `aliases`. A link is a container that may
    be reached and a name for it; an extra host, a name and an address. `dns` are name servers in
    place of the host's.

    `secrets` are files in memory, /run/secrets/<name>, for the container's user. Their values are
    never written down with the rest: None stands for one that the engine holds already.

    With `nesting` the container's root may mount file systems and make namespaces inside of it, but
    no user namespace: for tools that make images.
    """

    id: str
    image: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    ids: IdRange = ALLOT
    cwd: str = "/"
    user: str = "1000:1000"
    groups: tuple[int, ...] = ()
    hostname: str | None = None
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    network: bool = True
    capabilities: frozenset[str] = frozenset()
    readonly_root: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None
    terminal: bool = False
    console: tuple[int, int] | None = None
    stdin: bool = False
    stdin_once: bool = False
    auto_remove: bool = False
    stop_signal: int = signal.SIGTERM
    stop_timeout: float = 10.0
    log_size: int = DEFAULT_LOG
    log_files: int = 2
    ports: tuple[Publish, ...] = ()
    publish_all: bool = False
    networks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    secrets: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    nesting: bool = False

    def __post_init__(self) -> None:
        check_id(self.id)
        _require(bool(self.args) and bool(self.args[0]), "args must name a program to run")
        _require(all("\0" not in arg for arg in self.args), "args must not hold a NUL character")
        check_env(self.env)
        check_cwd(self.cwd)
        self._check_user()
        if self.hostname is not None:
            _require(
                HOSTNAME_PATTERN.fullmatch(self.hostname) is not None and len(self.hostname) <= 63,
                f"hostname {self.hostname!r} is not a host name of at most 63 characters",
            )
        unknown = self.capabilities - GRANTABLE_CAPABILITIES
        _require(not unknown, f"capabilities {sorted(unknown)} are never granted")
        if self.log_path is not None:
            _require(self.log_path.is_absolute(), "log_path must be absolute")
        _require(1 <= self.stop_signal <= 64, "stop_signal must be within 1 and 64")
        _require(self.stop_timeout >= 0, "stop_timeout must not be negative")
        _require(self.log_size >= MINIMUM_LOG, "log_size must be 64 KiB or more")
        _require(1 <= self.log_files <= 1000, "log_files must be within 1 and 1000")
        _require(not self.nesting or self.uid == 0, "nesting needs the user 0:0")
        self._check_network()
        self._check_secrets()

    def _check_network(self) -> None:
        wishes = (self.ports, self.publish_all, self.networks, self.links, self.dns)
        _require(
            self.network or not any(wishes),
            "a container without network has no ports, networks, links or name servers",
        )
        _require(not self.aliases or bool(self.networks), "an alias needs a network to be known in")
        for name in self.networks:
            check_network_name(name)
        _require(len(set(self.networks)) == len(self.networks), "a network is named twice")
        for name in (*self.aliases, *dict(self.extra_hosts)):
            check_host_name(name)
        for target, alias in self.links:
            check_id(target)
            check_host_name(alias)
            _require(target != self.id, "a container cannot be linked to itself")
        for address in (*(address for _, address in self.extra_hosts), *self.dns):
            _check_address(address)
        for word in (*self.dns_search, *self.dns_options):
            _require(
                word.isascii() and word.isprintable() and not set(word) & set(" #;"),
                f"{word!r} cannot stand in a resolv.conf",
            )

    def _check_secrets(self) -> None:
        for name in self.secrets:
            _require(
                SECRET_PATTERN.fullmatch(name) is not None,
                f"secret name {name!r} must be 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-',"
                " not beginning with a dot",
            )
        size = sum(len(value or b"") for value in self.secrets.values())
        _require(
            size <= SECRETS_BYTES, "the secrets of a container may have 512 KiB together, not more"
        )

    def _check_user(self) -> None:
        match = USER_PATTERN.fullmatch(self.user)
        _require(match is not None, f"user {self.user!r} must be numeric, like 1000:1000")
        _require(
            max(self.uid, self.gid, *self.groups) < self.ids.size,
            f"user {self.user!r} lies outside the {self.ids.size} ids of the container",
        )

    @property
    def uid(self) -> int:
        """The user id inside the container."""
        return int(self.user.partition(":")[0])

    @property
    def gid(self) -> int:
        """The group id inside the container."""
        return int(self.user.partition(":")[2])


def check_cwd(cwd: str) -> None:
    """Raise InvalidSpec for what cannot, or must not, be a working directory."""
    _require(cwd.startswith("/") and "\0" not in cwd, "cwd must be an absolute path")
    # A working directory below /proc could name a file descriptor of the host's runtime.
    _require(
        not PurePosixPath(normpath(cwd)).is_relative_to("/proc"), "cwd must not lie below /proc"
    )


def _check_address(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise InvalidSpec(f"{text!r} is no IP address") from None


def check_env(env: Mapping[str, str]) -> None:
    """Raise InvalidSpec for a name or a value that no process environment can hold."""
    for name, value in env.items():
        _require(
            ENV_NAME_PATTERN.fullmatch(name) is not None,
            f"environment name {name!r} must not be empty nor hold '=' or NUL",
        )
        _require("\0" not in value, f"the value of {name} must not hold a NUL character")
