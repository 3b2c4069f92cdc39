"""Named networks and links: who reaches whom, under which names, and what stays apart."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from enginelab import Lab, eventually, open_lab
from networklab import SERVER
from shipway.runtime.errors import (
    InvalidSpec,
    NetworkExists,
    NetworkInUse,
    NoSuchContainer,
    NoSuchNetwork,
)
from shipway.runtime.network.publish import parse

# Asks each "host:port" for a line; prints what all said, or that they did not.
ASK = """
import json, socket, sys
def ask(target):
    host, _, port = target.rpartition(":")
    try:
        return socket.create_connection((host, int(port)), 2).makefile().read().split()[0]
    except OSError:
        return "closed"
print(json.dumps([ask(target) for target in sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file, with the networks "shop" and "back"."""
    with open_lab(__name__) as lab:
        lab.engine.networks.create("shop")
        lab.engine.networks.create("back")
        yield lab
        lab.engine.networks.remove("shop")
        lab.engine.networks.remove("back")
        assert lab.leftovers() == {}


@contextmanager
def serving(lab: Lab, *names: str, **changes: object) -> Iterator[None]:
    """Containers of these names, each serving at port 80, in the same networks."""
    try:
        for name in names:
            lab.run(name, "python3", "-c", SERVER, name, "80", **changes)
        for name in names:
            eventually(lambda name=name: b" " in heard(lab, name))
        yield
    finally:
        for name in reversed(names):
            lab.engine.remove(name)


def heard(lab: Lab, name: str) -> bytes:
    """What the host hears from a container's server."""
    argv = [
        "/usr/bin/python3",
        "-c",
        "import socket,sys; print(socket.create_connection((sys.argv[1],80),2).makefile().read())",
    ]
    done = subprocess.run([*argv, lab.engine.get(name).ip], capture_output=True)
    return done.stdout


def ask(lab: Lab, name: str, *targets: str) -> list[str]:
    """What a running container hears at each target: a server's name, or "closed"."""
    chunks: list[bytes] = []
    lab.engine.execute_in(name, ("python3", "-c", ASK, *targets), output=chunks.append)
    found: list[str] = json.loads(b"".join(chunks))
    return found


def hosts(lab: Lab, name: str) -> str:
    """A container's hosts file, as it sees it."""
    chunks: list[bytes] = []
    lab.engine.execute_in(name, ("cat", "/etc/hosts"), output=chunks.append)
    return b"".join(chunks).decode()


def test_members_reach_each_other_by_name(lab: Lab) -> None:
    """By id, by alias, by address, in both directions; on every port."""
    with serving(lab, "web", networks=("shop",), aliases=("front",)):
        with serving(lab, "db", networks=("shop",), aliases=("pg", "main.db")):
            assert ask(lab, "web", "db:80", "pg:80", "main.db:80") == ["db", "db", "db"]
            assert ask(lab, "db", "web:80", "front:80") == ["web", "web"]
            addresses = [f"{each}:80" for each in lab.engine.networks.addresses("db")]
            assert set(ask(lab, "web", *addresses)) == {"db"}
            assert ask(lab, "web", "front:80", "web:80") == ["web", "web"]


def test_others_reach_nothing_and_know_no_names(lab: Lab) -> None:
    """Who is on no network, or on another, is as far away as ever."""
    with serving(lab, "web", networks=("shop",)), serving(lab, "db", networks=("back",)):
        with serving(lab, "alone"):
            for stranger in ("db", "alone"):
                addresses = [f"{each}:80" for each in lab.engine.networks.addresses("web")]
                assert set(ask(lab, stranger, *addresses)) == {"closed"}
                assert "web" not in hosts(lab, stranger)
                back = [f"{each}:80" for each in lab.engine.networks.addresses(stranger)]
                assert set(ask(lab, "web", *back)) == {"closed"}


def test_a_container_on_two_networks_is_no_bridge(lab: Lab) -> None:
    """It reaches both sides, and they do not reach each other."""
    with serving(lab, "web", networks=("shop",)), serving(lab, "db", networks=("back",)):
        with serving(lab, "both", networks=("shop", "back")):
            assert ask(lab, "both", "web:80", "db:80") == ["web", "db"]
            assert ask(lab, "web", "both:80", f"{lab.engine.get('db').ip}:80") == ["both", "closed"]
            assert ask(lab, "db", "both:80", f"{lab.engine.get('web').ip}:80") == ["both", "closed"]
            assert "db" not in hosts(lab, "web")
            assert "web" not in hosts(lab, "db")


def test_a_container_knows_its_networks_from_the_start(lab: Lab) -> None:
    """The first thing a program does can be to call a neighbour by name."""
    with serving(lab, "db", networks=("shop",)):
        ended, text = lab.execute("python3", "-c", ASK, "db:80", networks=("shop",))
        assert (ended.code, json.loads(text)) == (0, ["db"])


def test_connect_and_disconnect_work_at_once(lab: Lab) -> None:
    """A running container joins and leaves; names come and go, and open connections end."""
    with serving(lab, "web"), serving(lab, "db", networks=("shop",)):
        lab.engine.networks.connect("web", "shop", ["late"])
        assert lab.engine.networks.of("web") == {"shop": ("late",)}
        assert ask(lab, "db", "late:80") == ["web"]
        assert ask(lab, "web", "db:80") == ["db"]
        talk = """
import socket, time
with socket.create_server(("", 81)) as listener:
    sock = listener.accept()[0]
    while (data := sock.recv(10)):
        sock.sendall(data)
        print(data.decode(), flush=True)
"""
        lab.run("echo", "python3", "-c", talk, networks=("shop",))
        call = """
import socket, time
for _ in range(100):
    try:
        sock = socket.create_connection(("echo", 81), 2)
        break
    except OSError:
        time.sleep(0.02)
while True:
    sock.sendall(b"x")
    print(sock.recv(10).decode(), flush=True)
    time.sleep(0.02)
"""
        lab.run("caller", "python3", "-c", call, networks=("shop",))
        eventually(lambda: len(lab.says("caller")) > 2)
        lab.engine.networks.disconnect("caller", "shop")
        eventually(lambda: lab.engine.get("caller").state == "stopped")
        for name in ("caller", "echo"):
            lab.engine.remove(name)
        lab.engine.networks.disconnect("web", "shop")
        assert "late" not in hosts(lab, "db")
        assert "db" not in hosts(lab, "web")


def test_who_ended_is_not_named(lab: Lab) -> None:
    """When a member is stopped or removed its name goes, and comes back with it."""
    with serving(lab, "web", networks=("shop",)):
        lab.engine.create(lab.spec("db", "sleep", "60", networks=("shop",), aliases=("pg",)))
        assert "pg" not in hosts(lab, "web")
        for _ in range(2):
            lab.engine.start("db")
            assert f"{lab.engine.get('db').ip}\tdb pg\n" in hosts(lab, "web")
            lab.engine.stop("db", 0)
            assert "pg" not in hosts(lab, "web")
        lab.engine.remove("db")


def test_hosts_cannot_be_written_by_the_container(lab: Lab) -> None:
    """Not even by its root: the file is the engine's, and of the engine's disk."""
    script = "echo 1.2.3.4 x >> /etc/hosts; rm -f /etc/hosts; mv /etc/hostname /etc/hosts; ls -n /etc/hosts"
    text = lab.execute("sh", "-c", script, user="0:0")[1]
    assert "Read-only file system" in text
    assert text.splitlines()[-1].split()[2:4] == ["0", "0"]


def test_a_link_goes_one_way(lab: Lab) -> None:
    """Who is linked reaches the other under the alias and is told where; not the other way round."""
    with serving(lab, "db", ports=parse("80")):
        with serving(lab, "web", links=(("db", "pg"),)):
            ip = lab.engine.get("db").ip
            assert ask(lab, "web", "pg:80", "db:80") == ["db", "db"]
            assert ask(lab, "db", f"{lab.engine.get('web').ip}:80") == ["closed"]
            chunks: list[bytes] = []
            lab.engine.execute_in("web", ("env",), output=chunks.append)
            lines = b"".join(chunks).decode().splitlines()
            assert {
                f"PG_PORT=tcp://{ip}:80",
                f"PG_PORT_80_TCP_ADDR={ip}",
                "PG_NAME=/web/pg",
            } <= set(lines)


def test_a_link_follows_the_other_to_its_new_address(lab: Lab) -> None:
    """When the linked container is replaced, name and way lead to the new one."""
    with serving(lab, "db"), serving(lab, "web", links=(("db", "pg"),)):
        old = lab.engine.get("db").ip
        lab.engine.remove("db")
        assert "pg" not in hosts(lab, "web")
        assert [line for line in lab.elements() if line.startswith("links")] == []
        with serving(lab, "db"):
            assert lab.engine.get("db").ip != old
            assert ask(lab, "web", "pg:80") == ["db"]


def test_names_and_servers_can_be_given(lab: Lab) -> None:
    """Extra hosts, name servers, search domains and options are the container's own."""
    text = lab.execute(
        "cat",
        "/etc/hosts",
        "/etc/resolv.conf",
        extra_hosts=(("db.example", "192.0.2.7"), ("six", "2001:db8::1")),
        dns=("192.0.2.53",),
        dns_search=("example",),
        dns_options=("ndots:3",),
    )[1]
    for line in (
        "192.0.2.7\tdb.example",
        "2001:db8::1\tsix",
        "nameserver 192.0.2.53",
        "search example",
        "options ndots:3",
    ):
        assert line in text.splitlines()
    assert text.count("nameserver") == 1


def test_what_cannot_be_is_refused(lab: Lab) -> None:
    """Unknown and invalid networks and links are named errors, and nothing is left behind."""
    before = lab.leftovers()
    with pytest.raises(NoSuchNetwork, match="nowhere"):
        lab.run("web", "true", networks=("nowhere",))
    with pytest.raises(NoSuchContainer, match="nobody"):
        lab.run("web", "true", links=(("nobody", "x"),))
    for changes in (
        {"networks": ("a/b",)},
        {"networks": ("none",)},
        {"networks": ("shop", "shop")},
        {"aliases": ("x",)},
        {"networks": ("shop",), "aliases": ("a b",)},
        {"networks": ("shop",), "network": False},
        {"links": (("db", "x\ny"),)},
        {"links": (("web", "me"),)},
        {"extra_hosts": (("x", "nowhere"),)},
        {"extra_hosts": (("a\tb", "192.0.2.1"),)},
        {"dns": ("example",)},
        {"dns_search": ("a\nnameserver 192.0.2.1",)},
    ):
        with pytest.raises(InvalidSpec):
            lab.run("web", "true", **changes)
    assert lab.leftovers() == before


def test_networks_are_made_and_removed_by_name(lab: Lab) -> None:
    """Two of a name, none of a name, and one in use are named errors."""
    networks = lab.engine.networks
    with pytest.raises(NetworkExists, match="shop"):
        networks.create("shop")
    with pytest.raises(NoSuchNetwork, match="nowhere"):
        networks.remove("nowhere")
    with pytest.raises(InvalidSpec):
        networks.create("../x")
    lab.run("web", "sleep", "60", networks=("shop",))
    with pytest.raises(NetworkInUse, match="web"):
        networks.remove("shop")
    with pytest.raises(NoSuchNetwork):
        networks.connect("web", "nowhere")
    with pytest.raises(InvalidSpec, match="not on"):
        networks.disconnect("web", "back")
    with pytest.raises(NoSuchContainer):
        networks.connect("nobody", "shop")
    lab.engine.remove("web")
    lab.run("web", "sleep", "60", network=False)
    with pytest.raises(InvalidSpec, match="without any network"):
        networks.connect("web", "shop")
    lab.engine.remove("web")
    assert [each.name for each in networks.list()] == ["back", "shop"]


def test_setup_puts_members_back_together(lab: Lab) -> None:
    """With bridge and rules gone, setup() joins the running members of networks and links again."""
    with serving(lab, "db", networks=("shop",)), serving(lab, "alone"):
        with serving(lab, "web", networks=("shop",), links=(("alone", "a"),)):
            subprocess.run(["ip", "link", "del", lab.config.bridge], check=True)
            for family in ("inet", "bridge"):
                argv = ["nft", "delete", "table", family, lab.config.table]
                subprocess.run(argv, check=True)
            assert ask(lab, "web", "db:80") == ["closed"]
            lab.engine.setup()
            assert ask(lab, "web", "db:80", "a:80") == ["db", "alone"]
            assert ask(lab, "alone", f"{lab.engine.get('db').ip}:80") == ["closed"]
