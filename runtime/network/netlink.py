"""As much rtnetlink as one bridge and its veth pairs need: no process is started for a network.

Every function takes the socket of the network namespace it acts in, and raises KernelRefused.
"""

import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from shipway.runtime.errors import KernelRefused
from shipway.runtime.kernel import syscalls

_NLMSG_ERROR = 2
_REQUEST, _ACK = 0x1, 0x4
_CREATE, _EXCL, _REPLACE = 0x400, 0x200, 0x100
_NEWLINK, _DELLINK, _GETLINK, _SETLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 17, 18, 19, 20, 24, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 18, 26, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_BRPORT_ISOLATED = 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 2
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RTNH_F_ONLINK = 4
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
NESTED = 0x8000
_IFF_UP = 1
_AF_BRIDGE = 7
_TABLE_MAIN, _PROTO_STATIC, _TYPE_UNICAST = 254, 4, 1


def open_socket() -> socket.socket:
    """A netlink socket in the caller's network namespace."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def open_socket_in(namespace: int) -> socket.socket:
    """A netlink socket in the network namespace that the file descriptor stands for.

    A socket belongs for life to the namespace it was made in, so a thread goes there to make it.
    """

    def make() -> socket.socket:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        return open_socket()

    return syscalls.in_own_thread(make)


def create_bridge(sock: socket.socket, name: str, mac: bytes, mtu: int) -> None:
    """Make a bridge; raises FileExistsError's errno (EEXIST) if the name is taken."""
    attributes = [
        _string(_IFLA_IFNAME, name),
        attribute(_IFLA_ADDRESS, mac),
        attribute(_IFLA_MTU, struct.pack("=I", mtu)),
        nested(_IFLA_LINKINFO, [_string(_INFO_KIND, "bridge")]),
    ]
    _request(sock, _NEWLINK, _CREATE | _EXCL, _link() + b"".join(attributes), f"bridge {name}")


def create_veth(
    sock: socket.socket,
    name: str,
    bridge: str,
    peer: str,
    peer_mac: bytes,
    namespace: int,
    mtu: int,
) -> None:
    """Make `name` as a port of the bridge, its other end `peer` in another network namespace."""
    mtu_attribute = attribute(_IFLA_MTU, struct.pack("=I", mtu))
    peer_attributes = [
        _string(_IFLA_IFNAME, peer),
        attribute(_IFLA_ADDRESS, peer_mac),
        mtu_attribute,
        attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace)),
    ]
    peer_data = attribute(_VETH_PEER | NESTED, _link() + b"".join(peer_attributes))
    attributes = [
        _string(_IFLA_IFNAME, name),
        mtu_attribute,
        attribute(_IFLA_MASTER, struct.pack("=I", socket.if_nametoindex(bridge))),
        nested(_IFLA_LINKINFO, [_string(_INFO_KIND, "veth"), nested(_INFO_DATA, [peer_data])]),
    ]
    _request(sock, _NEWLINK, _CREATE | _EXCL, _link() + b"".join(attributes), f"veth {name}")


def isolate_port(sock: socket.socket, name: str) -> None:
    """Forbid a bridge port to talk with the other isolated ports of its bridge."""
    isolated = nested(_IFLA_PROTINFO, [attribute(_BRPORT_ISOLATED, b"\x01")])
    body = _link(family=_AF_BRIDGE, index=socket.if_nametoindex(name)) + isolated
    _request(sock, _SETLINK, 0, body, f"isolate {name}")


def set_up(sock: socket.socket, name: str, ipv6: bool = True) -> None:
    """Bring an interface up; without `ipv6` it gets no link-local address of that kind."""
    body = _link(flags=_IFF_UP, change=_IFF_UP) + _string(_IFLA_IFNAME, name)
    if not ipv6:
        mode = attribute(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
        body += nested(_IFLA_AF_SPEC, [nested(socket.AF_INET6, [mode])])
    _request(sock, _NEWLINK, 0, body, f"bring up {name}")


def index_of(sock: socket.socket, name: str) -> int:
    """The interface's index in the socket's namespace."""
    reply = _request(sock, _GETLINK, 0, _link() + _string(_IFLA_IFNAME, name), f"look up {name}")
    index: int = struct.unpack_from("=i", reply, 4)[0]
    return index


def set_master(sock: socket.socket, name: str, bridge: str) -> None:
    """Make an interface a port of the bridge."""
    master = attribute(_IFLA_MASTER, struct.pack("=I", socket.if_nametoindex(bridge)))
    _request(sock, _NEWLINK, 0, _link() + _string(_IFLA_IFNAME, name) + master, f"port {name}")


def add_address(sock: socket.socket, index: int, address: IPv4Interface | IPv6Interface) -> None:
    """Give an interface an address, usable at once; an IPv4 network's with its broadcast address."""
    family, prefix = _family(address.ip), address.network.prefixlen
    body = struct.pack(
        "=BBBBi", family, prefix, _IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, index
    )
    body += attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
    if family == socket.AF_INET and prefix < 31:
        body += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    _request(sock, _NEWADDR, _CREATE | _EXCL, body, f"address {address}")


def add_default_route(sock: socket.socket, gateway: IPv4Address | IPv6Address, index: int) -> None:
    """Send everything to the gateway, which is beyond that interface whatever the addresses say."""
    head = struct.pack(
        "=BBBBBBBBI",
        _family(gateway),
        0,
        0,
        0,
        _TABLE_MAIN,
        _PROTO_STATIC,
        0,
        _TYPE_UNICAST,
        _RTNH_F_ONLINK,
    )
    body = head + attribute(_RTA_GATEWAY, gateway.packed)
    body += attribute(_RTA_OIF, struct.pack("=i", index))
    _request(sock, _NEWROUTE, _CREATE | _EXCL, body, f"default route via {gateway}")


def add_neighbour(
    sock: socket.socket, index: int, address: IPv4Address | IPv6Address, mac: bytes
) -> None:
    """Tell an interface for good which MAC an address has, so that it never asks."""
    body = struct.pack("=BxHiHBB", _family(address), 0, index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    _request(sock, _NEWNEIGH, _CREATE | _REPLACE, body, f"neighbour {address}")


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def delete_link(sock: socket.socket, name: str) -> None:
    """Delete an interface (and a veth's other end); errno ENODEV if there is none."""
    _request(sock, _DELLINK, 0, _link() + _string(_IFLA_IFNAME, name), f"delete {name}")


def _link(family: int = 0, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, filled up to four bytes."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _string(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, attributes: Iterable[bytes]) -> bytes:
    """One netlink attribute that holds others."""
    return attribute(kind | NESTED, b"".join(attributes))


def _request(sock: socket.socket, kind: int, flags: int, body: bytes, what: str) -> bytes:
    """Send one request; return the body of its answer ("" for a plain acknowledgement)."""
    wants_ack = 0 if kind == _GETLINK else _ACK
    head = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | wants_ack, 1, 0)
    sock.send(head + body)
    answer = sock.recv(65536)
    length, answer_kind = struct.unpack_from("=IH", answer)
    if answer_kind != _NLMSG_ERROR:
        return answer[16:length]
    number = -struct.unpack_from("=i", answer, 16)[0]
    if number:
        raise KernelRefused(number, f"{what}: {os.strerror(number)}")
    return b""
