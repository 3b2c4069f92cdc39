"""A look over the machine: what the engine needs and finds, item by item, and how to get the rest.

What must be tried is tried in a mount namespace or a temporary folder. One thing is changed, as a
set-up does too: on a host with cgroup v1 and v2, controllers left in v2 are mounted as v1.
"""

import errno
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shipway.runtime.config import EngineConfig
from shipway.runtime.containers import idmapping, launch
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.images import tools
from shipway.runtime.kernel import cgroups, disk, host, mounts
from shipway.runtime.kernel.userns import UserNamespace, user_namespace
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.network.check import foreign_firewalls, overlaps
from shipway.runtime.network.resolver import read_resolver
from shipway.runtime.oci import apparmor, runtime

State = Literal["ok", "degraded", "missing"]

ENOUGH_FILES = 65536
LITTLE_DISK = 2 * 1024**3
NO_DISK = 100 * 1024**2
CAP_SYS_RESOURCE = 24
# nft 1.0.6 can crash at a list that another process is just changing.
NFT_TRIES = 5
BUILDAH_WITH_NETAVARK = 30  # 1.30 and newer
# A container's id of 12 characters, and the longest name in its folder.
LONGEST_RUN_FOLDER = launch.LONGEST_SOCKET_PATH - len("/0123456789ab/attach")

# Where a hole of a runtime is closed, by release series: (CVE, what it is, versions that have it).
HOLES: dict[str, tuple[tuple[str, str, tuple[tuple[int, ...], ...]], ...]] = {
    "runc": (
        (
            "CVE-2025-31133, -52565, -52881",
            "races on masked paths and /dev/console",
            ((1, 2, 8), (1, 3, 3), (1, 4)),
        ),
        (
            "CVE-2026-41579",
            "an image with a link at /dev, which this engine refuses",
            ((1, 3, 6), (1, 4, 3), (1, 5)),
        ),
    ),
    "crun": (
        ("CVE-2026-30892", "the wrong user at `exec -u`, which is not used here", ((1, 27),)),
        (
            "CVE-2026-47766",
            "an image with a link at /dev, which this engine refuses",
            ((1, 28),),
        ),
    ),
    "runsc": (),
}


@dataclass(frozen=True)
class Finding:
    """One item: without a "missing" one containers run; with a "degraded" one something is less.

    `detail` says what was found and what it means, `remedy` how to get it, if there is a way.
    """

    item: str
    state: State
    detail: str
    remedy: str = ""


def check_all(config: EngineConfig) -> list[Finding]:
    """Look at everything. Each item is looked at for itself, whatever the others are."""
    found = []
    for item, check in CHECKS.items():
        try:
            state, detail, remedy = check(config)
        except PermissionError:
            state, detail, remedy = "missing", "only root can try it", "run as root"
        except RuntimeFailure as error:
            state, detail, remedy = "missing", str(error), ""
        except (OSError, subprocess.SubprocessError) as error:
            state, detail, remedy = "missing", f"could not be tried: {error}", ""
        found.append(Finding(item, state, detail, remedy))
    return found


def is_fit(findings: list[Finding]) -> bool:
    """Whether containers can run."""
    return all(each.state != "missing" for each in findings)


Answer = tuple[State, str, str]


def _root(_config: EngineConfig) -> Answer:
    if os.geteuid() == 0:
        return "ok", "this process is root", ""
    return "missing", f"this process is user {os.geteuid()}", "run as root"


def _kernel(_config: EngineConfig) -> Answer:
    if host.kernel_version() >= host.OLDEST_MAPPING_KERNEL:
        return "ok", os.uname().release, ""
    remedy = "upgrade to Linux 5.19 or later"
    if host.kernel_version() >= host.OLDEST_KERNEL:
        return "degraded", f"{os.uname().release} cannot id-map layers: they are copied", remedy
    return "missing", f"{os.uname().release} lacks mount_setattr", remedy


def _user_namespaces(_config: EngineConfig) -> Answer:
    most = Path("/proc/sys/user/max_user_namespaces")
    if not most.exists():
        return "missing", "the kernel has none", "use a kernel with CONFIG_USER_NS"
    if int(most.read_text()) == 0:
        return "missing", "none is allowed", "set the sysctl user.max_user_namespaces, to 15000 say"
    user_namespace(idmapping.TRIED_IDS)
    return "ok", f"at most {int(most.read_text())}; root needs no other setting, nor newuidmap", ""


def _overlay(config: EngineConfig) -> Answer:
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        # The module may not have been asked for yet; trying loads it.
        subprocess.run(["modprobe", "overlay"], capture_output=True, timeout=30)
    place, kind = _existing(config.root), _file_system(config.root)
    refused = idmapping.refusal(place, user_namespace(idmapping.TRIED_IDS))
    if not refused and config.idmap == "auto":
        return "ok", f"id-mapped layers work on {kind}", ""
    plain = idmapping.refusal(place, UserNamespace(None, idmapping.TRIED_IDS.base))
    if plain:
        return (
            "missing",
            f"the file system of {config.root} ({kind}) takes no overlay: {plain}",
            "put the data folder on ext4, xfs or btrfs",
        )
    copied = "layers are copied, and shifted, for each range of ids"
    if not refused:
        return "degraded", f"{copied}, as the engine's config says (idmap)", ""
    return (
        "degraded",
        f"the file system of {config.root} ({kind}) takes no id-mapped overlay: {copied}",
        mounts.FILE_SYSTEM_REMEDY,
    )


def _control_groups(config: EngineConfig) -> Answer:
    found = cgroups.Cgroups(config.cgroup)
    present = frozenset().union(*(each.controllers for each in found.hierarchies))
    missing = [name for name in cgroups.NEEDED if name not in present]
    if missing:
        return (
            "missing",
            f"{found.version}, without {', '.join(missing)}",
            "enable them on the kernel's command line (cgroup_enable=memory)",
        )
    if not present & {"io", "blkio"}:
        return (
            "degraded",
            f"{found.version}, without io limits",
            "use a kernel with CONFIG_BLK_CGROUP",
        )
    return "ok", f"{found.version} with {', '.join(sorted(cgroups.NEEDED))} and io", ""


def _runtime(config: EngineConfig) -> Answer:
    available = [name for name in runtime.REMEDIES if shutil.which(name)]
    try:
        chosen = runtime.find_runtime(config.runtime, config.run / ".oci")
    except RuntimeFailure as error:
        return "missing", str(error), "install Debian's package crun or runc"
    others = [name for name in available if name != chosen.name]
    detail = f"{chosen.name} {chosen.version}, {_reason(config, chosen.name, available)}"
    if others:
        detail += f"; {', '.join(others)} also there"
    return "ok", detail, ""


def _reason(config: EngineConfig, name: str, available: list[str]) -> str:
    if config.runtime != "auto":
        return "as it was named"
    if name == "runc" and "crun" in available:
        return "for crun refuses this host's mixture of cgroup v1 and v2"
    return "the fastest that is there" if name == "crun" else "for crun is not installed"


def _holes(config: EngineConfig) -> Answer:
    chosen = runtime.find_runtime(config.runtime, config.run / ".oci")
    open_ones = [
        f"{cve} ({what})"
        for cve, what, fixed in HOLES[chosen.name]
        if not has_fix(chosen.version, fixed)
    ]
    if not open_ones:
        return "ok", f"none is known here of {chosen.name} {chosen.version}", ""
    detail = f"by its version {chosen.name} {chosen.version} may lack {'; '.join(open_ones)}"
    return (
        "degraded",
        detail,
        f"install a newer {chosen.name}, if your distribution has not mended it",
    )


def has_fix(version: str, fixed: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a version has a fix that came in these, one of each release series.

    A series without one of its own has it if it is younger than all of them.
    """
    have = tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))
    series = [each for each in fixed if have[:2] == each[:2]]
    return have >= series[0] if series else have > max(fixed)


def _conmon(_config: EngineConfig) -> Answer:
    return _program("conmon", "conmon", "missing", "each container's monitor")


def _nft(_config: EngineConfig) -> Answer:
    answer = _program("nft", "nftables", "missing", "the packet filter")
    if answer[0] != "ok":
        return answer
    for _ in range(NFT_TRIES):
        done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=30)
        if done.returncode >= 0:
            break
    if done.returncode != 0 and os.geteuid() != 0:
        raise PermissionError
    if done.returncode != 0:
        why = done.stderr.strip().partition("\n")[0]
        return "missing", f"the kernel refuses it: {why}", "use a kernel with CONFIG_NF_TABLES"
    return answer


def _forwarding(_config: EngineConfig) -> Answer:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    if path.read_text().strip() == "1":
        return "ok", "IPv4 is forwarded", ""
    if os.access(path, os.W_OK):
        return "ok", "IPv4 is not forwarded yet; setting the engine up turns it on", ""
    return "missing", "IPv4 is not forwarded, and cannot be", "set the sysctl net.ipv4.ip_forward=1"


def _other_firewalls(config: EngineConfig) -> Answer:
    found = list(foreign_firewalls(config.bridge, config.table))
    if found:
        return "degraded", _all(each.what for each in found), _all(each.remedy for each in found)
    return "ok", "no other firewall drops what containers send", ""


def _subnet(config: EngineConfig) -> Answer:
    found = list(overlaps(config.bridge, AddressPool(config.root, config.subnet).network))
    if found:
        return "degraded", _all(each.what for each in found), found[0].remedy
    return "ok", f"{config.subnet} is the containers' alone", ""


def _all(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _ipv6(_config: EngineConfig) -> Answer:
    if not Path("/proc/sys/net/ipv6").exists():
        return "degraded", "the kernel has no IPv6: containers have IPv4 only", ""
    on = Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() == "1"
    return "ok", f"the kernel has IPv6, forwarding is {'on' if on else 'off'}", ""


def _seccomp(_config: EngineConfig) -> Answer:
    if Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        return "ok", "the kernel filters system calls", ""
    return "missing", "the kernel cannot filter calls", "use a kernel with CONFIG_SECCOMP_FILTER"


def _apparmor(_config: EngineConfig) -> Answer:
    if not apparmor.is_enabled():
        return "degraded", "the kernel has none, or it is off: one wall fewer, nothing else", ""
    if shutil.which("apparmor_parser") is None:
        return (
            "missing",
            "the kernel enforces it, and no profile can be loaded",
            apparmor.INSTALL_REMEDY,
        )
    return "ok", "containers get a profile of their own", ""


def _cap_sys_resource(_config: EngineConfig) -> Answer:
    status = Path("/proc/self/status").read_text()
    effective = int(re.findall(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[0], 16)
    if effective >> CAP_SYS_RESOURCE & 1:
        return "ok", "CAP_SYS_RESOURCE is there", ""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    detail = (
        f"none: limits stay at their hard ones (open files: {hard}), no monitor is spared by OOM"
    )
    return "degraded", detail, "run on a host of its own, not in a container"


def _open_files(_config: EngineConfig) -> Answer:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= ENOUGH_FILES:
        return "ok", f"{hard} open files per process", ""
    return (
        "degraded",
        f"containers get {hard} open files, not {ENOUGH_FILES}",
        "raise the hard limit of open files (LimitNOFILE= in the service's unit)",
    )


def _data_folder(config: EngineConfig) -> Answer:
    place = _existing(config.root)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = {errno.EROFS: "mount it writable", errno.ENOSPC: "free some space"}
        why = os.strerror(error.errno or 0).lower()
        return (
            "missing",
            f"{place} cannot be written: {why}",
            remedy.get(error.errno or 0, "run as root"),
        )
    return "ok", f"{config.root} can be written", ""


def _free_disk(config: EngineConfig) -> Answer:
    found = os.statvfs(_existing(config.root))
    free = found.f_bavail * found.f_frsize
    detail = f"{free / 1024**3:.1f} GiB are free for {config.root}"
    if free < NO_DISK or (found.f_files and found.f_favail < 1000):
        return "missing", f"{detail}, and {found.f_favail} files", "free some space"
    if free < LITTLE_DISK:
        return "degraded", f"{detail}: a few images fill it", "free some space"
    return "ok", detail, ""


def _run_folder(config: EngineConfig) -> Answer:
    length = len(os.fsencode(config.run))
    if length > LONGEST_RUN_FOLDER:
        return (
            "missing",
            f"{config.run} has {length} characters, too many for the names of sockets below it",
            f"choose a run folder of at most {LONGEST_RUN_FOLDER} characters",
        )
    return "ok", f"{config.run}", ""


def _name_servers(_config: EngineConfig) -> Answer:
    servers = read_resolver().nameservers
    if servers:
        return "ok", f"containers ask {', '.join(map(str, servers))}", ""
    return (
        "degraded",
        "no IPv4 name server but on the host's loopback, where containers cannot ask it",
        "name one in /etc/resolv.conf that other machines could ask",
    )


def _disk_limits(_config: EngineConfig) -> Answer:
    if shutil.which("mkfs.ext4") is None:
        return "degraded", "no disk limits: no mkfs.ext4", "install Debian's package e2fsprogs"
    if not Path(disk.CONTROL).exists():
        return "degraded", "no disk limits: no loop devices", disk.REMEDY
    return "ok", "containers can have a size, through loop devices", ""


def _unshare(_config: EngineConfig) -> Answer:
    return _program("unshare", "util-linux", "missing", "makes user namespaces")


def _skopeo(_config: EngineConfig) -> Answer:
    return _program("skopeo", "skopeo", "degraded", "pull and push")


def _buildah(_config: EngineConfig) -> Answer:
    answer = _program("buildah", "buildah", "degraded", "build, from Dockerfiles")
    version = re.search(r"buildah 1\.(\d+)", answer[1])
    if version is None or int(version[1]) < BUILDAH_WITH_NETAVARK or tools.netavark():
        return answer
    return "degraded", "buildah does not find netavark", "install Debian's package netavark"


def _program(name: str, package: str, without: State, purpose: str) -> Answer:
    path = shutil.which(name)
    if path is None:
        return (
            without,
            f"{name} is not installed ({purpose})",
            f"install Debian's package {package}",
        )
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    version = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return "ok", f"{name} {version[0] if version else ''}".rstrip() + f" ({purpose})", ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _file_system(folder: Path) -> str:
    place = str(_existing(folder))
    done = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", place],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip() or "unknown"


CHECKS: dict[str, Callable[[EngineConfig], Answer]] = {
    "root": _root,
    "kernel": _kernel,
    "user namespaces": _user_namespaces,
    "overlay": _overlay,
    "control groups": _control_groups,
    "runtime": _runtime,
    "known holes": _holes,
    "conmon": _conmon,
    "unshare": _unshare,
    "nftables": _nft,
    "other firewalls": _other_firewalls,
    "subnet": _subnet,
    "forwarding": _forwarding,
    "IPv6": _ipv6,
    "seccomp": _seccomp,
    "AppArmor": _apparmor,
    "CAP_SYS_RESOURCE": _cap_sys_resource,
    "open files": _open_files,
    "data folder": _data_folder,
    "free disk": _free_disk,
    "run folder": _run_folder,
    "disk limits": _disk_limits,
    "name servers": _name_servers,
    "skopeo": _skopeo,
    "buildah": _buildah,
}
