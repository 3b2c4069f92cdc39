"""Who can reach whom: containers the internet, the host the containers, and nobody anything else."""

import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from enginelab import Lab, eventually, open_lab
from networklab import machine_beyond
from shipway.runtime.engine import Engine
from shipway.runtime.network.bridge import mac_of

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    while True:
        sock, client = listener.accept()
        with sock:
            sock.sendall(client[0].encode())
"""
# Prints, for each "address:port" given, whether a connection comes about.
KNOCK = """
import json, socket, sys
def knock(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        return "open"
    except OSError:
        return "closed"
print(json.dumps({target: knock(target) for target in sys.argv[1:]}))
"""


SERVER6 = """
import socket
with socket.create_server(("::", 80), family=socket.AF_INET6) as listener:
    while True:
        sock, client = listener.accept()
        with sock:
            sock.sendall(client[0].encode())
"""


def has_ipv6(lab: Lab) -> bool:
    """Whether containers have IPv6 on this machine."""
    return lab.engine._tools.network.has_ipv6()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file, with a neighbour that serves on port 8000."""
    with open_lab(__name__) as lab:
        lab.run("neighbour", "python3", "-c", SERVER, "0.0.0.0", "8000")
        eventually(lambda: fetch(lab.engine.get("neighbour").ip, 8000))
        yield lab
        lab.engine.remove("neighbour")
        assert lab.leftovers() == {}


def fetch(address: str, port: int) -> str | None:
    """What the test server answers: the address it sees us at."""
    try:
        with socket.create_connection((address, port), 2) as sock:
            return sock.makefile("rb").read().decode()
    except OSError:
        return None


def knock(lab: Lab, *targets: str, **changes: object) -> dict[str, str]:
    """Which targets a container can connect to."""
    ended, text = lab.execute("python3", "-c", KNOCK, *targets, **changes)
    assert ended.code == 0, text
    found: dict[str, str] = json.loads(text)
    return found


@contextmanager
def host_server(address: str) -> Iterator[int]:
    """A server of the host's, on one of its addresses; gives the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:

        def serve() -> None:
            try:
                while True:
                    listener.accept()[0].close()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def internet(name: str, ours: str, theirs: str) -> Iterator[str]:
    """A machine beyond the host, in a network namespace: address `theirs`, serving on port 80."""
    with (
        machine_beyond(name, ours, theirs) as inside,
        subprocess.Popen([*inside, "/usr/bin/python3", "-c", SERVER, theirs, "80"]) as server,
    ):
        try:
            eventually(lambda: fetch(theirs, 80))
            yield theirs
        finally:
            server.kill()


def test_the_host_reaches_a_container(lab: Lab) -> None:
    """The host connects to a container's own address, and is seen as the gateway."""
    gateway = str(IPv4Network(lab.config.subnet)[1])
    assert fetch(lab.engine.get("neighbour").ip, 8000) == gateway


def test_a_container_reaches_no_neighbour(lab: Lab) -> None:
    """One container cannot connect to another, on any port."""
    ip = lab.engine.get("neighbour").ip
    assert knock(lab, f"{ip}:8000", f"{ip}:1") == {f"{ip}:8000": "closed", f"{ip}:1": "closed"}


def test_a_container_reaches_nothing_of_the_host(lab: Lab) -> None:
    """None of the host's addresses answers a container: not the gateway, not the uplink."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        uplink = probe.getsockname()[0]
    gateway = str(IPv4Network(lab.config.subnet)[1])
    for address in {uplink, gateway}:
        with host_server(address) as port:
            target = f"{address}:{port}"
            assert knock(lab, target) == {target: "closed"}


def test_private_and_metadata_networks_are_closed(lab: Lab) -> None:
    """Cloud metadata and private ranges are refused at once, not after a long wait."""
    targets = [
        "169.254.169.254:80",
        "10.0.0.1:80",
        "172.16.0.1:80",
        "192.168.1.1:80",
        "100.64.0.1:80",
    ]
    assert set(knock(lab, *targets).values()) == {"closed"}


def test_a_container_reaches_the_internet_by_the_hosts_address(lab: Lab) -> None:
    """What lies beyond the host sees the host's address, and cannot come in by itself."""
    name = f"x{lab.config.bridge[2:]}"
    with internet(name, "203.0.113.1", "203.0.113.2") as address:
        code = f"""
            import socket
            print(socket.create_connection(({address!r}, 80), 5).makefile().read())
        """
        assert lab.python(code) == "203.0.113.1\n"
        ip = lab.engine.get("neighbour").ip
        argv = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", KNOCK, f"{ip}:8000"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {f"{ip}:8000": "closed"}


def test_a_container_without_network_has_none(lab: Lab) -> None:
    """network=False leaves the loopback only, and no name server."""
    text = lab.execute("sh", "-c", "ls /sys/class/net; cat /etc/resolv.conf", network=False)[1]
    assert set(text.split()) <= {"lo", "ifb0", "ifb1", "sit0", "tunl0", "ip6tnl0"}
    assert knock(lab, "203.0.113.2:80", network=False) == {"203.0.113.2:80": "closed"}


def test_a_container_knows_its_names(lab: Lab) -> None:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf are the container's own."""
    script = (
        "cat /etc/hostname; getent hosts $(hostname); getent hosts localhost; cat /etc/resolv.conf"
    )
    text = lab.execute("sh", "-c", script, hostname="shop")[1]
    lines = text.splitlines()
    assert lines[0] == "shop"
    assert lines[1].split()[1] == "shop"
    for server in lab.engine.info()["nameservers"]:
        assert f"nameserver {server}" in lines


def test_the_hosts_name_servers_can_be_asked(lab: Lab) -> None:
    """A private name server of the host answers on port 53, and on no other."""
    servers = lab.engine.info()["nameservers"]
    if not servers:
        pytest.skip("this host has no name server a container could reach")
    try:
        socket.create_connection((servers[0], 53), 2).close()
    except OSError:
        pytest.skip("this host's name server does not speak TCP")
    targets = (f"{servers[0]}:53", f"{servers[0]}:80")
    assert knock(lab, *targets)[targets[0]] == "open"


def test_ipv6_beside_ipv4(lab: Lab) -> None:
    """A container has one IPv6 address, of the same place as its IPv4 address, and none link-local."""
    text = lab.execute("sh", "-c", "cat /proc/net/if_inet6 /etc/hosts")[1]
    found = [line.split()[0] for line in text.splitlines() if line.endswith("eth0")]
    if not has_ipv6(lab):
        assert found == []
        return
    [address] = [IPv4Address(line.split()[0]) for line in text.splitlines() if "foreground" in line]
    pool = lab.engine._tools.pool
    assert found == [pool.beside(address).packed.hex()]
    assert pool.network6.prefixlen == 64


@pytest.fixture(scope="module")
def other() -> Iterator[Lab]:
    """An engine that lets its containers reach one private network, and gives them no IPv6."""
    with open_lab("other", allow=("10.99.99.0/30",), subnet6="none") as lab:
        yield lab


def test_without_ipv6_there_is_none_inside(other: Lab) -> None:
    """An engine told so has no IPv6 in its containers, not even on their loopback."""
    assert other.execute("sh", "-c", "cat /proc/net/if_inet6")[1] == ""


def test_a_host_without_ipv6_starts_containers(lab: Lab) -> None:
    """Where the kernel has no IPv6 for the engine, set-up and containers do without, and return to it."""
    if not has_ipv6(lab):
        pytest.skip("this host has no IPv6 that could be turned off")
    setting = Path("/proc/sys/net/ipv6/conf", lab.config.bridge, "disable_ipv6")
    setting.write_text("1")
    try:
        assert lab.execute("sh", "-c", "cat /proc/net/if_inet6")[1] == ""
        assert "eth0" in lab.execute("sh", "-c", "cat /proc/net/route")[1]  # IPv4 is all there
    finally:
        lab.engine.setup()
    assert "eth0" in lab.execute("sh", "-c", "cat /proc/net/if_inet6")[1]


def test_ipv6_reaches_the_internet_and_nothing_private(lab: Lab) -> None:
    """What lies beyond is reached by the host's IPv6 address; host, neighbour and ULA are closed."""
    if not has_ipv6(lab):
        pytest.skip("this host has no IPv6")
    pool = lab.engine._tools.pool
    neighbour = pool.beside(IPv4Address(lab.engine.get("neighbour").ip))
    name = f"z{lab.config.bridge[2:]}"
    with internet(name, "203.0.113.9", "203.0.113.10"):
        # Global unicast, of a range that nobody has.
        for words in (
            ["ip", "addr", "add", "3ffe:53::1/64", "dev", name, "nodad"],
            ["ip", "-n", name, "addr", "add", "3ffe:53::2/64", "dev", "eth0", "nodad"],
            ["ip", "addr", "add", "fd99::1/64", "dev", name, "nodad"],
            ["ip", "-n", name, "addr", "add", "fd99::2/64", "dev", "eth0", "nodad"],
        ):
            subprocess.run(words, check=True)
        argv = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", SERVER6]
        with subprocess.Popen(argv) as server, host_server("::") as port:
            try:
                eventually(lambda: fetch("3ffe:53::2", 80))
                assert fetch("fd99::2", 80)
                code = """
                    import socket
                    print(socket.create_connection(("3ffe:53::2", 80), 5).makefile().read())
                """
                assert lab.python(code) == "3ffe:53::1\n"
                targets = [
                    "fd99::2:80",
                    "fd00:ec2::254:80",
                    "fe80::1:80",
                    "ff02::1:80",
                    "64:ff9b::a00:1:80",
                    f"{neighbour}:8000",
                    f"{pool.network6[1]}:{port}",
                    f"3ffe:53::1:{port}",
                ]
                assert set(knock(lab, *targets).values()) == {"closed"}
                # From beyond nobody comes in, not even by a route to it.
                into = ["ip", "-n", name, "route", "add", str(pool.network6), "via", "3ffe:53::1"]
                subprocess.run(into, check=True)
                ask = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", KNOCK]
                target = f"{neighbour}:8000"
                assert json.loads(subprocess.check_output([*ask, target])) == {target: "closed"}
            finally:
                server.kill()


FORGERIES = {
    "address": [
        ["ip", "addr", "flush", "dev", "eth0"],
        ["ip", "addr", "add", "{other}/24", "dev", "eth0"],
        ["ip", "route", "add", "default", "via", "{gateway}"],
    ],
    "mac": [["ip", "link", "set", "eth0", "address", "02:53:00:00:00:01"]],
    "ipv6": [
        ["ip", "-6", "addr", "flush", "dev", "eth0"],
        ["ip", "addr", "add", "{other6}/64", "dev", "eth0", "nodad"],
    ],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_senders_are_dropped(lab: Lab, forgery: str) -> None:
    """Even someone who could change a container's address or MAC gets no packet out with it."""
    if forgery == "ipv6" and not has_ipv6(lab):
        pytest.skip("this host has no IPv6")
    lab.run("forger", "sleep", "60")
    enter = ["nsenter", "-t", str(lab.engine.get("forger").pid), "-n"]
    network, network6 = IPv4Network(lab.config.subnet), lab.engine._tools.pool.network6
    words = {
        "other": network[200],
        "gateway": network[1],
        "other6": network6[200] if network6 else "",
    }
    name = f"y{lab.config.bridge[2:]}"
    try:
        with internet(name, "203.0.113.5", "203.0.113.6") as beyond:
            target = f"{beyond}:80"
            if forgery == "ipv6":
                own = ["ip", "addr", "add", "3ffe:54::1/64", "dev", name, "nodad"]
                other = ["ip", "-n", name, "addr", "add", "3ffe:54::2/64", "dev", "eth0", "nodad"]
                subprocess.run(own, check=True)
                subprocess.run(other, check=True)
                argv = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", SERVER6]
                server = subprocess.Popen(argv)
                eventually(lambda: fetch("3ffe:54::2", 80))
                target = "3ffe:54::2:80"
            knocking = [*enter, "/usr/bin/python3", "-c", KNOCK, target]
            assert json.loads(subprocess.check_output(knocking)) == {target: "open"}
            for command in FORGERIES[forgery]:
                subprocess.run([*enter, *(each.format(**words) for each in command)], check=True)
            assert json.loads(subprocess.check_output(knocking)) == {target: "closed"}
            if forgery == "ipv6":
                server.kill()
                server.wait()
    finally:
        lab.engine.remove("forger")


# Sends one Ethernet frame, given in hex, from eth0.
SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("eth0", 0))
    for frame in sys.argv[1:]:
        sock.send(bytes.fromhex(frame))
"""


def test_no_frame_claims_to_be_another(lab: Lab) -> None:
    """ARP for another's address, neighbour and router advertisements, and foreign MACs go nowhere."""
    lab.run("forger", "sleep", "60")
    try:
        address = IPv4Address(lab.engine.get("forger").ip)
        victim = IPv4Address(lab.engine.get("neighbour").ip)
        pool = lab.engine._tools.pool
        own, other, gateway = (mac_of(each) for each in (address, victim, pool.gateway.ip))
        answer = bytes.fromhex("0001080006040002")
        arp = {
            "true": own + answer_of(answer, own, address, gateway, pool.gateway.ip),
            "address": own + answer_of(answer, own, victim, gateway, pool.gateway.ip),
            "hardware": own + answer_of(answer, other, address, gateway, pool.gateway.ip),
            "frame": other + answer_of(answer, own, address, gateway, pool.gateway.ip),
        }
        six = [
            own + neighbour_message(kind, pool.beside(address), pool.beside(victim))
            for kind in (134, 136, 137)
            if pool.network6
        ]
        enter = ["nsenter", "-t", str(lab.engine.get("forger").pid), "-n"]
        frames = [(gateway + frame).hex() for frame in (*arp.values(), *six)]
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
            seen.bind((lab.config.bridge, 3))
            seen.settimeout(0.5)
            subprocess.run(
                [*enter, "/usr/bin/python3", "-c", SEND, *frames[1:], frames[0]], check=True
            )
            heard = set()
            while True:  # the true one was sent last, so the others are over once it is here
                frame = seen.recv(2000)
                heard.add(frame[6:])
                if frame[6:] == arp["true"]:
                    break
        assert heard.isdisjoint({*arp.values(), *six} - {arp["true"]})
        argv = ["ip", "neigh", "show", str(victim), "dev", lab.config.bridge]
        assert own.hex(":") not in subprocess.check_output(argv, text=True)
    finally:
        lab.engine.remove("forger")


def answer_of(
    head: bytes, mac: bytes, address: IPv4Address, to_mac: bytes, to: IPv4Address
) -> bytes:
    """An ARP answer after the sender's MAC: kind of frame, and that an address has a MAC."""
    return bytes.fromhex("0806") + head + mac + address.packed + to_mac + to.packed


def neighbour_message(kind: int, source: IPv6Address, claimed: IPv6Address) -> bytes:
    """A message of neighbour discovery after the sender's MAC, with a sound checksum."""
    body = bytes([kind, 0, 0, 0]) + bytes.fromhex("60000000") + claimed.packed
    target = IPv6Address("ff02::1").packed
    pseudo = source.packed + target + struct.pack(">II", len(body), 58) + body
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
    head = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source.packed + target
    return bytes.fromhex("86dd") + head + body


def test_setup_repairs_and_leaves_the_rest_alone(lab: Lab) -> None:
    """A second setup puts flushed rules back, and other tables stay as they are."""
    other = f"{lab.config.table}_other"
    subprocess.run(["nft", "add", "table", "ip", other], check=True)
    try:
        subprocess.run(["nft", "flush", "table", "inet", lab.config.table], check=True)
        Engine(lab.config).setup()
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        assert f"table ip {other}" in tables
        ip = lab.engine.get("neighbour").ip
        assert fetch(ip, 8000)
        assert knock(lab, f"{ip}:8000") == {f"{ip}:8000": "closed"}
    finally:
        subprocess.run(["nft", "delete", "table", "ip", other], check=True)


def test_the_operator_can_allow_a_network(other: Lab) -> None:
    """What `allow` lists can be reached although it is private."""
    with internet("swallow", "10.99.99.1", "10.99.99.2") as address:
        assert knock(other, f"{address}:80") == {f"{address}:80": "open"}


def test_addresses_are_not_used_again_at_once(lab: Lab) -> None:
    """A freed address is the last to be given again, so that nobody still calls it."""
    seen = set()
    for _ in range(3):
        lab.run("brief", "sleep", "60")
        seen.add(lab.engine.get("brief").ip)
        lab.engine.remove("brief")
    assert len(seen) == 3
