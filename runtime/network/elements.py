"""Elements of our nftables sets and maps: as text for `nft -f`, and sent to the kernel directly.

A container's start and end change a few elements only. Handing them over by netlink takes less than
a millisecond; a process of `nft` would take ten.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from shipway.runtime.errors import KernelRefused
from shipway.runtime.network.netlink import attribute, nested

Address = IPv4Address | IPv6Address
Part = Address | str | int
PROTOCOLS = {"tcp": 6, "udp": 17}

# Numbers from linux/netfilter/nfnetlink.h and nf_tables.h.
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW, _DELETE = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_GET_TABLE = _SUBSYSTEM << 8 | 1
_INET, _BRIDGE = 1, 7
_TABLE_NAME = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEMENT, _KEY, _DATA, _VALUE = 1, 1, 2, 1
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_NLMSG_ERROR = 2
_ANSWER_TIMEOUT = 10.0
# An attribute's length is a 16-bit number, so a message takes so many elements.
_MOST_ELEMENTS = 500


@dataclass(frozen=True)
class Element:
    """One element of `set`; a map's has a `value`. Parts are addresses, protocols and ports."""

    set: str
    key: tuple[Part, ...]
    value: tuple[Part, ...] = ()

    def __str__(self) -> str:
        """Write it as in a ruleset."""
        value = f" : {_text(self.value)}" if self.value else ""
        return _text(self.key) + value


def has_tables(table: str) -> bool:
    """Whether the kernel has the inet and the bridge table of that name."""
    name = attribute(_TABLE_NAME, table.encode() + b"\0")
    with closing(_open_socket()) as sock:
        for family in (_INET, _BRIDGE):
            sock.send(_netlink(_GET_TABLE, _ACK, 1, name, 0, family))
            try:
                while not _read_answers(sock.recv(65536), table):
                    pass
            except KernelRefused as error:
                if error.errno != errno.ENOENT:
                    raise
                return False
    return True


def add(table: str, elements: Sequence[Element]) -> None:
    """Add them to the sets of the inet table, all or none. KernelRefused with the kernel's errno.

    One that is there already is no error, unless a map has another value for it (EEXIST).
    """
    _transact(_NEW, table, elements)


def delete(table: str, elements: Sequence[Element]) -> None:
    """Delete them, and overlook those that are not there."""
    try:
        _transact(_DELETE, table, elements)
    except KernelRefused as error:
        if error.errno != errno.ENOENT:
            raise
        if len(elements) > 1:  # nothing was deleted: one missing fails them all
            for element in elements:
                delete(table, [element])


def _text(parts: tuple[Part, ...]) -> str:
    return " . ".join(map(str, parts))


def _transact(kind: int, table: str, elements: Sequence[Element]) -> None:
    if not elements:
        return
    messages = [
        _message(kind, table, chunk, number)
        for number, chunk in enumerate(_chunks(elements), start=1)
    ]
    begin = _netlink(_BATCH_BEGIN, 0, 0, b"", _SUBSYSTEM)
    end = _netlink(_BATCH_END, 0, len(messages) + 1, b"", _SUBSYSTEM)
    with closing(_open_socket()) as sock:
        sock.send(begin + b"".join(messages) + end)
        left = len(messages)
        while left:
            left -= _read_answers(sock.recv(65536), table)


def _open_socket() -> socket.socket:
    made = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, made, _NETLINK_NETFILTER)
    sock.settimeout(_ANSWER_TIMEOUT)
    return sock


def _chunks(elements: Sequence[Element]) -> list[list[Element]]:
    """The elements by set, not too many at a time."""
    by_set: dict[str, list[Element]] = {}
    for element in elements:
        by_set.setdefault(element.set, []).append(element)
    return [
        found[start : start + _MOST_ELEMENTS]
        for found in by_set.values()
        for start in range(0, len(found), _MOST_ELEMENTS)
    ]


def _read_answers(data: bytes, table: str) -> int:
    """How many messages the data acknowledges. Raises KernelRefused."""
    count = 0
    while data:
        length, kind = struct.unpack_from("=IH", data)
        if kind == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", data, 16)[0]
            if number:
                raise KernelRefused(number, f"nftables table {table}: {os.strerror(number)}")
            count += 1
        data = data[(length + 3) & ~3 :]
    return count


def _message(kind: int, table: str, elements: list[Element], number: int) -> bytes:
    body = attribute(_LIST_TABLE, table.encode() + b"\0")
    body += attribute(_LIST_SET, elements[0].set.encode() + b"\0")
    body += nested(_LIST_ELEMENTS, map(_element, elements))
    return _netlink(kind, _ACK | (_CREATE if kind == _NEW else 0), number, body, 0, _INET)


def _element(element: Element) -> bytes:
    parts = [nested(_KEY, [attribute(_VALUE, _packed(element.key))])]
    if element.value:
        parts.append(nested(_DATA, [attribute(_VALUE, _packed(element.value))]))
    return nested(_LIST_ELEMENT, parts)


def _packed(parts: tuple[Part, ...]) -> bytes:
    """The parts as registers hold them: in network order, each filled up to four bytes."""
    return b"".join(value + b"\0" * (-len(value) % 4) for value in map(_pack, parts))


def _pack(part: Part) -> bytes:
    if isinstance(part, str):
        return bytes([PROTOCOLS[part]])
    return struct.pack(">H", part) if isinstance(part, int) else part.packed


def _netlink(
    kind: int, flags: int, number: int, body: bytes, resource: int, family: int = 0
) -> bytes:
    general = struct.pack(">BBH", family, 0, resource)
    head = struct.pack("=IHHII", 20 + len(body), kind, flags | _REQUEST, number, 0)
    return head + general + body
