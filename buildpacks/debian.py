"""Debian root file systems: a minimal one by mmdebstrap, and more packages as an overlay above it.

Everything runs in mount and process namespaces of its own that end with this process, so that a
kill leaves no mount and no process.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shipway.buildpacks.errors import StackFailed

Output = Callable[[str], None]

_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UNREACHABLE = re.compile(
    r"Could not (resolve|connect|handshake)|Failed to fetch|Unable to connect|Connection (refused|"
    r"timed out|failed)|Temporary failure|Network is unreachable|Cannot initiate the connection"
)
_FULL = re.compile(r"No space left on device|not enough free space|enough free space in")
_KEYS = re.compile(r"NO_PUBKEY|is not signed|EXPKEYSIG|no valid OpenPGP|Missing key|verify.*failed")

# Documentation and translations are a third of a minimal system; licences stay.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bash-completion/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "force-unsafe-io",
)
# A silent mirror is given up on within a minute, not after apt's ten.
_APT_OPTIONS = (
    'Acquire::Retries "2"',
    'Acquire::http::Timeout "20"',
    'Acquire::https::Timeout "20"',
)

# $1 run tree, $2 upper, $3 work, $4 scratch, then the packages. What apt fetches and logs goes to
# the scratch folders, so that the upper folder ends up with the installed files only.
_ADD_PACKAGES = r"""
set -eu
lower=$1 upper=$2 work=$3 scratch=$4
shift 4
root=$scratch/root
mkdir -p "$root" "$scratch/archives/partial" "$scratch/lists/partial" "$scratch/log/apt" "$scratch/tmp"
chmod 1777 "$scratch/tmp"
mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" \
  -o redirect_dir=off,metacopy=off,index=off stack "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$scratch/archives" "$root/var/cache/apt/archives"
mount --bind "$scratch/lists" "$root/var/lib/apt/lists"
mount --bind "$scratch/log" "$root/var/log"
mount --bind "$scratch/tmp" "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
: > "$root/etc/resolv.conf"
mount --bind "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y --no-install-recommends install "$@"
umount "$root/etc/resolv.conf"
rm "$root/etc/resolv.conf" "$root/usr/sbin/policy-rc.d"
"""


_STAGES = ("running apt-get", "downloading", "extracting", "installing", "cleaning")


def require_tools() -> None:
    """Raise StackFailed, naming the package, when the host lacks a tool."""
    missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if not _KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing:
        names = " ".join(sorted(set(missing)))
        raise StackFailed(f"making a stack needs {names}: apt-get install {names}")


def make_base(
    tree: Path, suite: str, packages: Sequence[str], sources: Sequence[str], output: Output
) -> None:
    """Fill the empty folder `tree` with a minimal Debian. Raises StackFailed."""
    lines = _run(isolated(base_command(tree, suite, packages, sources)), _base_progress, output)
    _explain(lines, f"Debian {suite}")


def add_packages(
    lower: Path, upper: Path, scratch: Path, packages: Sequence[str], output: Output
) -> None:
    """Install packages above `lower`; what they change ends up in `upper`. Raises StackFailed."""
    work = scratch / "work"
    work.mkdir()
    folders = [os.fspath(path) for path in (lower, upper, work, scratch)]
    command = ["sh", "-c", _ADD_PACKAGES, "add-packages", *folders, *packages]
    lines = _run(isolated(command), _AptProgress(len(packages)), output)
    _explain(lines, "the packages of the build image")


def base_command(
    tree: Path, suite: str, packages: Sequence[str], sources: Sequence[str]
) -> list[str]:
    """Give the argument list of mmdebstrap."""
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(packages)}",
        *(f"--aptopt={option}" for option in _APT_OPTIONS),
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        suite,
        os.fspath(tree),
        *sources,
    ]


def isolated(command: Sequence[str]) -> list[str]:
    """`command` in namespaces of its own; when this process dies, so do they."""
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", *namespaces, "--", *command]


def _run(
    command: Sequence[str], progress: Callable[[str], str | None], output: Output
) -> list[str]:
    """Run to the end, telling the progress; gives the last lines if it failed, else none."""
    last: list[str] = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(os.environ),
    )
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.rstrip()
            last = [*last[-60:], line]
            told = progress(line)
            if told:
                output(f"       {told}")
        return last or ["no output"] if process.wait() else []
    finally:
        process.kill()
        process.wait()


def _environment(host: Mapping[str, str]) -> dict[str, str]:
    """Debian's tools in plain English, with the host's proxy, and nothing else of the host's."""
    kept = {name: value for name, value in host.items() if name.lower().endswith("_proxy")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return kept | {"PATH": path, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _base_progress(line: str) -> str | None:
    """Tell the stages that mmdebstrap tells."""
    stage = line.removeprefix("I: ")
    shown = stage != line and stage.startswith(_STAGES)
    return stage.rstrip(".") if shown else None


class _AptProgress:
    """apt's output as a few lines: what is fetched, then a line every 40 packages set up."""

    def __init__(self, asked: int) -> None:
        self._asked = asked
        self._done = 0

    def __call__(self, line: str) -> str | None:
        if line.startswith(("Need to get", "Fetched")):
            return line
        if line.startswith("Setting up"):
            self._done += 1
            if self._done % 40 == 0:
                return f"{self._done} packages set up"
        return None


def _explain(lines: Sequence[str], what: str) -> None:
    """Raise StackFailed with the reason found in a failed command's last lines, if there are any."""
    if not lines:
        return
    errors = [line for line in lines if line.startswith(("E:", "Err:", "W: Failed"))]
    told = (errors or list(lines))[0].strip()
    text = "\n".join(lines)
    if _FULL.search(text):
        raise StackFailed(f"no space is left on the disk while making {what}; free some ({told})")
    if _UNREACHABLE.search(text):
        raise StackFailed(
            f"the Debian mirror could not be reached for {what} ({told}); check the network, the "
            "http_proxy setting, and the mirror in /etc/apt/sources.list"
        )
    if _KEYS.search(text):
        raise StackFailed(
            f"the mirror's signature could not be checked for {what} ({told}); "
            "update the package debian-archive-keyring"
        )
    raise StackFailed(f"{what} could not be made: {told}")
