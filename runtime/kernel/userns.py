"""User namespaces as file descriptors, for the id-mapping of mounts."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from shipway.runtime.errors import HostUnfit
from shipway.runtime.spec import IdRange


class UserNamespace:
    """An open user namespace; its descriptor is closed when nobody refers to it any more.

    `root` is the host's id of its ids 0. Without a descriptor mounts are not id-mapped: they show
    what has the host's ids of the namespace on its disk.
    """

    def __init__(self, fd: int | None, root: int) -> None:
        self.fd = fd
        self.root = root

    def __del__(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


@lru_cache(maxsize=128)
def user_namespace(ids: IdRange) -> UserNamespace:
    """A user namespace that maps 0..size-1 onto the host's ids of the range.

    Made by a short-lived process (about 4 ms) and kept for the next start of the same app.
    """
    argv = ["unshare", "--user", "cat"]
    try:
        holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except FileNotFoundError as error:
        raise HostUnfit(
            "unshare is not installed", "install Debian's package util-linux"
        ) from error
    with holder:
        assert holder.stdin
        assert holder.stdout
        try:
            # cat answers only once unshare has done its work and become cat.
            os.write(holder.stdin.fileno(), b"\n")
            if not os.read(holder.stdout.fileno(), 1):
                raise HostUnfit(
                    "user namespaces cannot be made", "check the sysctl user.max_user_namespaces"
                )
            process = Path(f"/proc/{holder.pid}")
            for name in ("uid_map", "gid_map"):
                (process / name).write_text(f"0 {ids.base} {ids.size}\n")
            return UserNamespace(os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC), ids.base)
        finally:
            holder.kill()
