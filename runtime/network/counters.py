"""How much went through each network interface, by one netlink dump."""

import struct
from contextlib import closing
from typing import NamedTuple

from shipway.runtime.errors import KernelRefused
from shipway.runtime.network import netlink

_GETLINK, _ERROR, _DONE = 18, 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_IFNAME, _STATS64 = 3, 23
_LINK_HEAD = 16 + 16  # struct nlmsghdr and struct ifinfomsg
_BUFFER = 1 << 17


class Traffic(NamedTuple):
    """Bytes that a container received and sent."""

    received: int
    sent: int


def read_traffic(prefix: str) -> dict[str, Traffic]:
    """The traffic of each interface whose name begins so, as the host's end of a container's pair.

    What the host's end sends the container receives.
    """
    found: dict[str, Traffic] = {}
    start = prefix.encode()
    with closing(netlink.open_socket()) as sock:
        head = struct.pack("=IHHII", 32, _GETLINK, _REQUEST | _DUMP, 1, 0)
        sock.send(head + struct.pack("=BxHiII", 0, 0, 0, 0, 0))
        while True:
            answer = sock.recv(_BUFFER)
            at = 0
            while at < len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", answer, at + 16)[0]
                    raise KernelRefused(number, "list the network interfaces")
                name, traffic = _link(answer, at, length, start)
                if traffic is not None:
                    found[name] = traffic
                at += (length + 3) & ~3


def _link(answer: bytes, at: int, length: int, start: bytes) -> tuple[str, Traffic | None]:
    """An interface's name and traffic; none of one whose name begins otherwise."""
    place, end = at + _LINK_HEAD, at + length
    name = ""
    while place + 4 <= end:
        size, kind = struct.unpack_from("=HH", answer, place)
        if kind == _IFNAME:
            raw = answer[place + 4 : place + size - 1]
            if not raw.startswith(start):
                break
            name = raw.decode("ascii", "replace")
        elif kind == _STATS64:
            received, sent = struct.unpack_from("=QQ", answer, place + 4 + 16)
            return name, Traffic(sent, received)
        place += (size + 3) & ~3
    return name, None
