"""What the machine must have before a container can run on it."""

import os
import re
import shutil

from shipway.runtime.errors import HostUnfit

# The first kernel with mount_setattr, by which every mount of ours is made.
OLDEST_KERNEL = (5, 12)
# The first kernel whose overlay takes id-mapped layers; without it they are copied.
OLDEST_MAPPING_KERNEL = (5, 19)
TOOLS = {"nft": "nftables", "conmon": "conmon", "unshare": "util-linux"}


def check_host() -> None:
    """Raise HostUnfit for the first thing that is missing."""
    if os.geteuid() != 0:
        raise HostUnfit("the container engine needs root", "run as root")
    if kernel_version() < OLDEST_KERNEL:
        raise HostUnfit(
            f"the kernel {os.uname().release} is too old", "5.12 or later is needed; upgrade it"
        )
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise HostUnfit(f"{tool} is not installed", f"install Debian's package {package}")


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """The running kernel's first two numbers."""
    match = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
