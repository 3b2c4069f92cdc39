"""The two spellings of "deleted below": overlayfs's on disk, and OCI's `.wh.` names in a tar.

On disk a whiteout is a character device 0:0 and an opaque directory has an xattr; nested
overlays may write a file with an xattr instead, and `user.` in place of `trusted.`.
"""

import os
import stat
from collections.abc import Mapping

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"

_OVERLAY = ("trusted.overlay.", "user.overlay.")
_HOST = ("security.selinux", "security.ima", "security.evm")  # the host's, never a layer's
_UNREADABLE = {"metacopy", "redirect"}  # the content, or the subtree, is somewhere else


def overlay_flags(xattrs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Overlayfs's own marks among `xattrs`, without their prefix."""
    return {
        name[len(prefix) :]: value
        for name, value in xattrs.items()
        for prefix in _OVERLAY
        if name.startswith(prefix)
    }


def portable(xattrs: Mapping[str, bytes]) -> dict[str, bytes]:
    """The xattrs that belong in a layer."""
    return {
        name: value
        for name, value in xattrs.items()
        if not name.startswith(_OVERLAY) and name not in _HOST
    }


def is_whiteout(status: os.stat_result, flags: Mapping[str, bytes]) -> bool:
    """Whether this directory entry hides one of a lower layer."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    return stat.S_ISREG(status.st_mode) and "whiteout" in flags


def is_opaque(flags: Mapping[str, bytes]) -> bool:
    """Whether a directory with these marks hides all that lower layers have in it."""
    return flags.get("opaque") == b"y"


def is_elsewhere(flags: Mapping[str, bytes]) -> bool:
    """Whether overlayfs left the real thing in a lower layer, so that it cannot be read here."""
    return not _UNREADABLE.isdisjoint(flags)


def make_whiteout(name: bytes, directory: int) -> None:
    """Hide `name` of the lower layers, in the directory open at `directory`."""
    os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
