"""Who can reach whom: containers the internet, the host the containers, and nobody anything else."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network

import pytest

from enginelab import Lab, eventually, open_lab
from shipway.runtime.engine import Engine

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
    host, port = target.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        return "open"
    except OSError:
        return "closed"
print(json.dumps({target: knock(target) for target in sys.argv[1:]}))
"""


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
    with socket.create_server((address, 0)) as listener:

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
        argv = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", SERVER, theirs, "80"]
        with subprocess.Popen(argv) as server:
            try:
                eventually(lambda: fetch(theirs, 80))
                yield theirs
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)


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


def test_there_is_no_ipv6_inside(lab: Lab) -> None:
    """A container has no IPv6 address, not even a link-local one."""
    assert lab.execute("sh", "-c", "cat /proc/net/if_inet6")[1] == ""


@pytest.mark.parametrize("forgery", ["address", "mac"])
def test_forged_senders_are_dropped(lab: Lab, forgery: str) -> None:
    """Even someone who could change a container's address or MAC gets no packet out with it."""
    lab.run("forger", "sleep", "60")
    enter = ["nsenter", "-t", str(lab.engine.get("forger").pid), "-n"]
    network = IPv4Network(lab.config.subnet)
    forgeries = {
        "address": [
            ["ip", "addr", "flush", "dev", "eth0"],
            ["ip", "addr", "add", f"{network[200]}/24", "dev", "eth0"],
            ["ip", "route", "add", "default", "via", str(network[1])],
        ],
        "mac": [["ip", "link", "set", "eth0", "address", "02:53:00:00:00:01"]],
    }
    try:
        with internet(f"y{lab.config.bridge[2:]}", "203.0.113.5", "203.0.113.6") as beyond:
            target = f"{beyond}:80"
            knocking = [*enter, "/usr/bin/python3", "-c", KNOCK, target]
            assert json.loads(subprocess.check_output(knocking)) == {target: "open"}
            for command in forgeries[forgery]:
                subprocess.run([*enter, *command], check=True)
            assert json.loads(subprocess.check_output(knocking)) == {target: "closed"}
    finally:
        lab.engine.remove("forger")


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


def test_the_operator_can_allow_a_network() -> None:
    """What `allow` lists can be reached although it is private."""
    with open_lab("allowing", allow=("10.99.99.0/30",)) as lab:
        with internet("swallow", "10.99.99.1", "10.99.99.2") as address:
            assert knock(lab, f"{address}:80") == {f"{address}:80": "open"}


def test_addresses_are_not_used_again_at_once(lab: Lab) -> None:
    """A freed address is the last to be given again, so that nobody still calls it."""
    seen = set()
    for _ in range(3):
        lab.run("brief", "sleep", "60")
        seen.add(lab.engine.get("brief").ip)
        lab.engine.remove("brief")
    assert len(seen) == 3
