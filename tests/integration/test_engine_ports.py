"""Ports of containers, published at the host's: who reaches them, who has them, what is left."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from enginelab import DEADLY, IMAGE, Lab, eventually, open_lab
from networklab import SERVER, machine_beyond
from shipway.runtime.engine import Engine
from shipway.runtime.errors import InvalidSpec, NoSuchHostAddress, PortTaken
from shipway.runtime.network.publish import parse
from support import free_port

ASK = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).makefile().read())
except OSError as error:
    print("closed")
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab
        assert lab.leftovers() == {}


@contextmanager
def serving(lab: Lab, name: str, *ports: str, **changes: object) -> Iterator[str]:
    """A container that serves at its port 80, published so; its own address."""
    wishes = tuple(each for port in ports for each in parse(port))
    lab.run(name, "python3", "-c", SERVER, name, "80", ports=wishes, **changes)
    try:
        address = lab.engine.get(name).ip
        eventually(lambda: ask(address, 80))
        yield address
    finally:
        lab.engine.remove(name)


def ask(address: str, port: int) -> str | None:
    """What a server says over TCP."""
    try:
        with socket.create_connection((address, port), 2) as sock:
            return sock.makefile().read()
    except OSError:
        return None


def ask_udp(sock: socket.socket, address: str, port: int) -> str | None:
    """What a server says over UDP, if anything."""
    sock.settimeout(1)
    try:
        sock.sendto(b"?", (address, port))
        return sock.recv(100).decode()
    except OSError:
        return None


def uplink() -> str:
    """An address of this machine that others know it by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])


def elsewhere(name: str, network: str) -> AbstractContextManager[list[str]]:
    """A machine at the second address of a network, the host being at the first."""
    return machine_beyond(name, f"{network}.1", f"{network}.2")


def ask_from(words: list[str], address: str, port: int) -> str:
    """What a server says to somebody else."""
    argv = [*words, "/usr/bin/python3", "-c", ASK, address, str(port)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_a_port_is_at_the_loopback_unless_said_otherwise(lab: Lab) -> None:
    """Without an address, the host itself reaches the port and nobody else does."""
    port = free_port()
    gateway = str(IPv4Network(lab.config.subnet)[1])
    with serving(lab, "web", f"{port}:80"), elsewhere("swp1", "203.0.113") as words:
        assert ask("127.0.0.1", port) == f"web {gateway}"
        assert ask(uplink(), port) is None
        assert ask_from(words, "203.0.113.1", port) == "closed"


def test_a_port_at_all_addresses_is_reached_from_elsewhere(lab: Lab) -> None:
    """With 0.0.0.0 others reach it too, and are seen as who they are."""
    port = free_port()
    with (
        serving(lab, "web", f"0.0.0.0:{port}:80") as address,
        elsewhere("swp2", "203.0.113") as words,
    ):
        assert ask("127.0.0.1", port) is not None
        assert ask(uplink(), port) == f"web {uplink()}"
        assert ask_from(words, "203.0.113.1", port) == "web 203.0.113.2"
        # The published port is the only way in.
        assert ask_from(words, address, 80) == "closed"


def test_a_port_at_one_address_is_at_no_other(lab: Lab) -> None:
    """A port is published where it is said, and nowhere else."""
    port = free_port()
    with serving(lab, "web", f"{uplink()}:{port}:80"):
        assert ask(uplink(), port) == f"web {uplink()}"
        assert ask("127.0.0.1", port) is None


def test_the_loopback_is_not_reached_from_a_wire(lab: Lab) -> None:
    """Packets from elsewhere for 127.0.0.1 stay dropped, although the bridge routes such addresses."""
    port = free_port()
    with serving(lab, "web", f"{port}:80"), elsewhere("swp3", "203.0.113") as words:
        route = ["ip", "route", "add", "127.0.0.1/32", "via", "203.0.113.1"]
        subprocess.run([*words, *route], check=True)
        assert ask_from(words, "127.0.0.1", port) == "closed"


def test_a_container_reaches_no_service_of_the_hosts_loopback(lab: Lab) -> None:
    """Even root in the container's network, with a route to 127.0.0.1, reaches nothing of the host."""
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(lab, "web"):
        enter = ["nsenter", "-t", str(lab.engine.get("web").pid), "-n"]
        gateway = str(IPv4Network(lab.config.subnet)[1])
        for words in (
            ["ip", "link", "set", "lo", "down"],
            ["sysctl", "-q", "-w", "net.ipv4.conf.eth0.route_localnet=1"],
            ["ip", "route", "flush", "table", "local"],
            ["ip", "route", "add", "127.0.0.1/32", "via", gateway, "dev", "eth0", "onlink"],
        ):
            subprocess.run([*enter, *words], check=True, capture_output=True)
        assert ask_from(enter, "127.0.0.1", listener.getsockname()[1]) == "closed"


def test_ipv6_is_published_too(lab: Lab) -> None:
    """At [::], a port is reached by the host's IPv6 addresses, and not by IPv4."""
    if not lab.engine._tools.network.has_ipv6():
        pytest.skip("this host has no IPv6")
    gateway = str(lab.engine._tools.pool.network6[1])
    port = free_port()
    with serving(lab, "web", f"[::]:{port}:80"):
        assert ask(gateway, port) == f"web {gateway}"
        assert ask("127.0.0.1", port) is None


def test_another_container_is_not_let_through(lab: Lab) -> None:
    """A port at all addresses is for who is outside; a container has to share a network."""
    port = free_port()
    with serving(lab, "web", f"0.0.0.0:{port}:80"):
        for address in (uplink(), str(IPv4Network(lab.config.subnet)[1])):
            assert lab.execute("python3", "-c", ASK, address, str(port))[1].strip() == "closed"


def test_udp_follows_the_port_to_its_new_owner(lab: Lab) -> None:
    """A client that keeps sending reaches who has the port now, whoever had it before."""
    port = free_port()
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        assert ask_udp(sock, "127.0.0.1", port) is None
        for name in ("first", "second"):
            with serving(lab, name, f"{port}:80/udp"):
                assert str(ask_udp(sock, "127.0.0.1", port)).startswith(name)
        assert ask_udp(sock, "127.0.0.1", port) is None


def test_ports_are_shown(lab: Lab) -> None:
    """`ports` says where each port is, in order; a port left to us is a free one."""
    port = free_port()
    with serving(lab, "web", f"{port}:80", "0.0.0.0::443/udp"):
        first, second = lab.engine.ports("web")
        assert str(first) == f"127.0.0.1:{port}->80/tcp"
        assert (second.container, second.protocol, str(second.address)) == (443, "udp", "0.0.0.0")
        assert lab.engine.all_ports() == {"web": [first, second]}


def test_a_taken_port_names_who_has_it(lab: Lab) -> None:
    """A port of a container, or of a program, is refused by name, and nothing is left behind."""
    port = free_port()
    with serving(lab, "web", f"{port}:80"):
        before = lab.leftovers()
        with pytest.raises(PortTaken, match="'web'"):
            lab.run("other", "sleep", "60", ports=parse(f"{port}:80"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.getsockname()[1]
            with pytest.raises(PortTaken, match=f"process {os.getpid()}"):
                lab.run("other", "sleep", "60", ports=parse("90") + parse(f"{number}:80"))
        with pytest.raises(NoSuchHostAddress):
            lab.run("other", "sleep", "60", ports=parse("198.51.100.9:80:80"))
        assert lab.leftovers() == before
        assert ask("127.0.0.1", port)


def test_without_network_there_is_nothing_to_publish(lab: Lab) -> None:
    """Ports of a container without network are refused before anything is done."""
    with pytest.raises(InvalidSpec, match="without network"):
        lab.spec("web", "true", network=False, ports=parse("80"))


def test_a_container_that_ended_holds_no_port(lab: Lab) -> None:
    """Whoever ended by itself, unnoticed, makes room for the next that wants its port."""
    port = free_port()
    lab.run("brief", "true", ports=parse(f"0.0.0.0:{port}:80"))
    eventually(lambda: lab.engine.get("brief").state == "stopped")
    with serving(lab, "web", f"{port}:80"):
        assert str(ask("127.0.0.1", port)).startswith("web")
        assert ask(uplink(), port) is None
        lab.engine.remove("brief")
        assert str(ask("127.0.0.1", port)).startswith("web")


def test_a_kept_container_has_its_ports_again(lab: Lab) -> None:
    """stop frees the port at once, and start takes it again."""
    port = free_port()
    spec = lab.spec("kept", "python3", "-c", SERVER, "kept", "80", ports=parse(f"{port}:80"))
    lab.engine.create(spec)
    assert lab.engine.ports("kept") == []
    for _ in range(2):
        lab.engine.start("kept")
        eventually(lambda: ask("127.0.0.1", port))
        lab.engine.stop("kept", 0)
        assert ask("127.0.0.1", port) is None
        assert lab.engine.ports("kept") == []
    with serving(lab, "web", f"{port}:80"):
        with pytest.raises(PortTaken, match="'web'"):
            lab.engine.start("kept")
    lab.engine.start("kept")
    lab.engine.remove("kept")


def test_exposed_ports_are_published(lab: Lab) -> None:
    """`publish_all` publishes what the image exposes, each at a free port, beside what is asked for."""
    image = lab.engine.images.get(IMAGE)
    config = replace(image.config, exposed_ports=("80/tcp", "53/udp"))
    lab.engine.images.write(image.layers, config, "exposing:latest")
    spec = replace(lab.spec("web", "sleep", "60", ports=parse("81")), image="exposing:latest")
    lab.engine.run(replace(spec, publish_all=True))
    found = {(each.container, each.protocol) for each in lab.engine.ports("web")}
    assert found == {(53, "udp"), (80, "tcp"), (81, "tcp")}
    lab.engine.remove("web")


def test_setup_brings_everything_back(lab: Lab) -> None:
    """With bridge and rules gone, as if the machine had none, setup() puts running containers back."""
    port = free_port()
    with serving(lab, "web", f"{port}:80") as address:
        lab.run("brief", "true", ports=parse("81"))
        eventually(lambda: lab.engine.get("brief").state == "stopped")
        subprocess.run(["ip", "link", "del", lab.config.bridge], check=True)
        for family in ("inet", "bridge"):
            argv = ["nft", "delete", "table", family, lab.config.table]
            subprocess.run(argv, check=True)
        assert ask("127.0.0.1", port) is None
        Engine(lab.config).setup()
        assert str(ask("127.0.0.1", port)).startswith("web")
        assert ask(address, 80)
        if lab.engine._tools.network.has_ipv6():
            assert ask(str(lab.engine._tools.pool.beside(IPv4Address(address))), 80)
        assert len([line for line in lab.elements() if line.startswith("at4")]) == 1
        lab.engine.remove("brief")


def test_lost_rules_do_not_stop_a_start(lab: Lab) -> None:
    """Somebody flushed all rules: the next container with a port brings them back whole."""
    port, other = free_port(), free_port()
    with serving(lab, "web", f"{port}:80"):
        subprocess.run(["nft", "delete", "table", "inet", lab.config.table], check=True)
        with serving(lab, "more", f"{other}:80"):
            assert str(ask("127.0.0.1", port)).startswith("web")
            assert str(ask("127.0.0.1", other)).startswith("more")


def test_many_start_at_once(lab: Lab) -> None:
    """Containers that start in parallel with ports left to us all get one of their own."""
    from concurrent.futures import ThreadPoolExecutor

    names = [f"c{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: lab.run(name, "sleep", "60", ports=parse("80-82")), names))
        ports = [each.host for found in lab.engine.all_ports().values() for each in found]
        assert len(set(ports)) == 36
        assert len(lab.elements()) == 36
        list(pool.map(lab.engine.remove, names))


def test_a_thousand_ports_are_set_up_at_once(lab: Lab) -> None:
    """All leases of running containers are in the kernel after setup, whatever their number."""
    with serving(lab, "web"):
        folder = lab.config.root / "ports"
        folder.mkdir(exist_ok=True)
        for number in range(20000, 21000):
            os.symlink("web 80", folder / f"{number}-tcp-127.0.0.9")
        lab.engine.setup()
        assert len(lab.elements()) == 1000
        (lab.config.root / "containers/web/wired").touch()
    assert lab.leftovers() == {}


def test_nothing_of_others_is_touched() -> None:
    """A foreign table reads the same before and after an engine's whole life."""
    rules = """table inet swforeign {
        set s { type ipv4_addr; elements = { 192.0.2.1 } }
        chain forward { type filter hook forward priority 10; policy accept; ip daddr @s drop; }
        chain nat { type nat hook prerouting priority dstnat; tcp dport 1 dnat ip to 192.0.2.1:2; }
    }"""
    listing = ["nft", "-s", "list", "table", "inet", "swforeign"]
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        before = subprocess.check_output(listing)
        with open_lab("foreign") as lab:
            lab.engine.networks.create("shop")
            with serving(lab, "web", "80", networks=("shop",)):
                assert subprocess.check_output(listing) == before
            lab.engine.networks.remove("shop")
        assert subprocess.check_output(listing) == before
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "swforeign"], check=True)


STEPS = {
    "run": [
        "network.wiring:Wiring.enrol",
        "network.publish:PortLeases._write",
        "network.wiring:Wiring.lease",
        "network.hosts:write_first",
        "network.wiring:Wiring._add",
        "network.hosts:rewrite",
        "network.wiring:Wiring.connect",
    ],
    "remove": [
        "network.wiring:Wiring._delete",
        "network.publish:PortLeases.release",
        "network.wiring:Wiring.disconnect",
        "network.named:Groups.leave",
        "network.wiring:Wiring.forget",
    ],
}
SCRIPT = (
    DEADLY
    + """
from shipway.runtime.network.publish import parse

engine = Engine(EngineConfig.of(Path(config)))
spec = ContainerSpec("victim", image, ("sleep", "60"), {}, IdRange(300000), ports=parse("80"),
    networks=("net",), aliases=("v",), links=(("friend", "f"),), dns=("10.9.9.9",))
if verb == "remove":
    engine.run(spec)
arm()
engine.run(spec) if verb == "run" else engine.remove("victim")
"""
)


@pytest.fixture(scope="module")
def company(lab: Lab) -> Iterator[dict[str, list[str]]]:
    """What the victim joins and is linked to; all that there is without it."""
    lab.engine.networks.create("net")
    lab.run("friend", "sleep", "600")
    yield lab.leftovers()
    lab.engine.remove("friend")
    lab.engine.networks.remove("net")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("verb", "step"), [(verb, step) for verb, steps in STEPS.items() for step in steps]
)
def test_kill_at_any_step_leaves_nothing(
    lab: Lab, company: dict[str, list[str]], verb: str, step: str, when: str
) -> None:
    """After kill -9 around any step of the wiring, remove() leaves no lease, element or name."""
    argv = [sys.executable, "-c", SCRIPT, step, when, verb, str(lab.config.root), IMAGE]
    done = subprocess.run(argv, timeout=60, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    lab.engine.remove("victim")
    assert lab.leftovers() == company
