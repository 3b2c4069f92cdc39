"""What tests of the containers' network share."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# Answers on TCP and UDP, IPv4 and IPv6, with its name and the address that it sees the client at.
SERVER = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", port))
tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
def say(client):
    return f"{name} {client[0].removeprefix('::ffff:')}".encode()
def datagrams():
    while True:
        client = udp.recvfrom(100)[1]
        udp.sendto(say(client), client)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    sock, client = tcp.accept()
    with sock:
        sock.sendall(say(client))
"""


@contextmanager
def machine_beyond(name: str, ours: str, theirs: str) -> Iterator[list[str]]:
    """A machine on a wire of the host's, which it routes by: the words that run a command on it.

    `ours` and `theirs` are the two ends' addresses, of one network of four.
    """
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
        ["ip", "addr", "add", f"{ours}/30", "dev", name],
        ["ip", "link", "set", name, "up"],
        ["ip", "-n", name, "addr", "add", f"{theirs}/30", "dev", "eth0"],
        ["ip", "-n", name, "link", "set", "eth0", "up"],
        ["ip", "-n", name, "link", "set", "lo", "up"],
        ["ip", "-n", name, "route", "add", "default", "via", ours],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)
