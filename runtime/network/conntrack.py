"""Forgetting what the kernel remembers of UDP flows, so that they follow a published port's new owner.

The kernel decides once per flow where its packets go, and a flow of UDP lasts as long as its client
keeps sending. What was decided before a port was published, or while another had it, would stay.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from shipway.runtime.errors import KernelRefused
from shipway.runtime.network.netlink import NESTED, attribute, nested
from shipway.runtime.network.publish import Published

# Numbers from linux/netfilter/nfnetlink_conntrack.h.
_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_TARGET = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTO_NUMBER, _PROTO_TARGET = 1, 3
_FILTER, _FILTER_ORIGINAL, _FILTER_REPLY = 25, 1, 2
_BY_PROTOCOL, _BY_TARGET_PORT = 1 << 3, 1 << 5
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDP = 17
_ANSWER_TIMEOUT = 10.0

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Flow:
    """A flow: where its first packet was for, who answers, and how the kernel names it."""

    target: Address
    answers: Address
    name: bytes


def forget(ports: Iterable[Published], containers: Iterable[Address]) -> None:
    """Forget the flows to these ports of the host that led to the containers, or to the host itself."""
    owners = set(containers)
    for port in ports:
        if port.protocol == "udp":
            for flow in flows(port.address.version, port.host):
                own = flow.answers == flow.target and _is_hosts(flow.target)
                meant = port.address.is_unspecified or flow.target == port.address
                if flow.answers in owners or (own and meant):
                    _delete(port.address.version, flow)


def flows(version: int, port: int) -> list[Flow]:
    """The UDP flows of that IP version whose first packet was for that port."""
    protocol = attribute(_PROTO_NUMBER, bytes([_UDP]))
    protocol += attribute(_PROTO_TARGET, struct.pack(">H", port))
    body = nested(_ORIGINAL, [nested(_TUPLE_PROTO, [protocol])])
    flags = struct.pack("=I", _BY_PROTOCOL | _BY_TARGET_PORT)
    none = attribute(_FILTER_REPLY, struct.pack("=I", 0))
    body += nested(_FILTER, [attribute(_FILTER_ORIGINAL, flags), none])
    found = []
    for answer in _ask(_GET, _DUMP, version, body):
        original, reply = answer[_ORIGINAL], answer[_REPLY]
        found.append(
            Flow(
                _address(original, _IP_TARGET[version]),
                _address(reply, _IP_SOURCE[version]),
                nested(_ORIGINAL, [original]),
            )
        )
    return found


def _delete(version: int, flow: Flow) -> None:
    try:
        list(_ask(_DELETE, _ACK, version, flow.name))
    except KernelRefused as error:
        if error.errno != errno.ENOENT:  # it ended by itself
            raise


def _ask(kind: int, flags: int, version: int, body: bytes) -> Iterator[dict[int, bytes]]:
    """Send a request; the attributes of each answer."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    head = struct.pack("=IHHII", 20 + len(body), kind, flags | _REQUEST, 1, 0)
    made = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with closing(socket.socket(socket.AF_NETLINK, made, _NETLINK_NETFILTER)) as sock:
        sock.settimeout(_ANSWER_TIMEOUT)
        sock.send(head + struct.pack(">BBH", family, 0, 0) + body)
        while True:
            data = sock.recv(1 << 18)
            while data:
                length, answer = struct.unpack_from("=IH", data)
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, 16)[0]
                    if number:
                        raise KernelRefused(number, "connection tracking")
                    return
                yield dict(_attributes(data[20:length]))
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & ~NESTED, data[4:length]
        data = data[(length + 3) & ~3 :]


def _address(flow: bytes, kind: int) -> Address:
    return ip_address(dict(_attributes(dict(_attributes(flow))[_TUPLE_IP]))[kind])


def _is_hosts(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with closing(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
