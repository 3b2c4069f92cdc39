"""A container's /etc/hosts: a file of the engine's, bound read-only into the container.

It is rewritten in place, since a bind shows the file and not its name. Below a marker stand the
names of links and of the other members of the container's networks.
"""

import os
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

MARKER = "# Names of networks and links; the engine keeps them.\n"
LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def line(address: IPv4Address, names: Sequence[str]) -> str:
    """A line of the file.

    IPv4's only: a program that listens on IPv4 alone, as many do, would not be found at the IPv6
    address that most clients try first.
    """
    return f"{address}\t{' '.join(names)}\n"


def own_part(hostname: str, address: IPv4Address | None, extra: Iterable[tuple[str, str]]) -> str:
    """What holds for the container's life: localhost, its own name, and the hosts it asked for."""
    # Without a network the name still resolves, to an address that Debian uses for it.
    own = f"{address or '127.0.1.1'}\t{hostname}\n"
    return LOCAL + own + "".join(f"{address}\t{name}\n" for name, address in extra)


def write_first(path: Path, own: str) -> None:
    """Make the file, for a container that is not there yet."""
    path.unlink(missing_ok=True)
    path.write_text(own + MARKER)
    path.chmod(0o644)


def rewrite(path: Path, lines: Iterable[str]) -> None:
    """Replace what stands below the marker. A file that is not there (any more) is left so."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        old = os.pread(fd, os.fstat(fd).st_size, 0)
        own = old.partition(MARKER.encode())[0]
        new = own + (MARKER + "".join(lines)).encode()
        if new != old:
            # In one go and never shorter: whoever reads meanwhile sees no half of a line.
            os.pwrite(fd, new.ljust(len(old), b"\n"), 0)
            os.ftruncate(fd, len(new))
    finally:
        os.close(fd)
