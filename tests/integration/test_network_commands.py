"""`shipway runtime`'s verbs and options of the network, as a person uses them."""

import json
from collections.abc import Iterator

import pytest

from enginelab import IMAGE, Lab, eventually, open_lab
from networklab import SERVER
from runtimecli import call, ok
from support import free_port


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab
        assert lab.leftovers() == {}


def serve(lab: Lab, name: str, *options: str) -> None:
    """Start a server at port 80 of a container."""
    ok(lab, "run", "-d", "--name", name, *options, IMAGE, "python3", "-c", SERVER, name, "80")


def test_ports_as_docker_shows_them(lab: Lab) -> None:
    """run -p publishes; port and ps show it in Docker's form."""
    first, second = free_port(), free_port()
    serve(lab, "web", "-p", f"{first}:80", "-p", f"0.0.0.0:{second}:81/udp")
    assert ok(lab, "port", "web").splitlines() == [
        f"80/tcp -> 127.0.0.1:{first}",
        f"81/udp -> 0.0.0.0:{second}",
    ]
    assert ok(lab, "port", "web", "80") == f"127.0.0.1:{first}\n"
    assert ok(lab, "port", "web", "81/udp") == f"0.0.0.0:{second}\n"
    missing = call(lab, "port", "web", "99/tcp")
    assert missing.returncode == 1
    assert "99/tcp of container 'web' is not published" in missing.stderr
    [one, _] = json.loads(ok(lab, "port", "web", "--json"))
    assert one == {"ContainerPort": 80, "Protocol": "tcp", "HostIp": "127.0.0.1", "HostPort": first}
    shown = f"127.0.0.1:{first}->80/tcp, 0.0.0.0:{second}->81/udp"
    assert ok(lab, "ps", "--format", "{{.Ports}}") == shown + "\n"
    assert call(lab, "port", "nobody").returncode == 1
    [seen] = json.loads(ok(lab, "inspect", "web"))
    assert seen["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(first)}],
        "81/udp": [{"HostIp": "0.0.0.0", "HostPort": str(second)}],
    }
    taken = call(lab, "run", "-d", "--name", "other", "-p", f"{first}:80", IMAGE, "sleep", "60")
    assert taken.returncode == 125
    assert f"127.0.0.1:{first}/tcp is published by container 'web'" in taken.stderr
    for name in ("web", "other"):
        call(lab, "rm", "-f", name)
    assert lab.leftovers() == {}


def test_networks_from_create_to_rm(lab: Lab) -> None:
    """network create, run --network, ls, inspect, connect, disconnect, rm."""
    assert ok(lab, "network", "create", "--label", "team=a", "shop") == "shop\n"
    serve(lab, "db", "--network", "shop", "--network-alias", "pg")
    ask = "import socket, sys; print(socket.create_connection((sys.argv[1], 80), 5).makefile().read())"
    asking = (IMAGE, "python3", "-c", ask, "pg")
    running = ("run", "--rm", "--network", "shop", *asking)
    assert eventually(lambda: call(lab, *running).stdout).startswith("db ")
    assert ok(lab, "network", "ls", "-q") == "shop\n"
    assert ok(lab, "network", "ls").splitlines()[1].split()[:2] == ["shop", "1"]
    [found] = json.loads(ok(lab, "network", "inspect", "shop"))
    assert found["Labels"] == {"team": "a"}
    assert found["Containers"]["db"]["Aliases"] == ["pg"]
    assert lab.engine.get("db").ip in found["Containers"]["db"]["Addresses"]
    assert json.loads(ok(lab, "network", "ls", "--json"))[0]["Name"] == "shop"
    [seen] = json.loads(ok(lab, "inspect", "db"))
    assert seen["NetworkSettings"]["Networks"]["shop"]["Aliases"] == ["pg"]
    assert seen["HostConfig"]["NetworkMode"] == "shop"
    used = call(lab, "network", "rm", "shop")
    assert (used.returncode, "used by db" in used.stderr) == (1, True)
    ok(lab, "network", "disconnect", "shop", "db")
    ok(lab, "network", "connect", "--alias", "late", "shop", "db")
    assert lab.engine.networks.get("shop").members == {"db": ("late",)}
    ok(lab, "rm", "-f", "db")
    assert ok(lab, "network", "rm", "shop") == "shop\n"


def test_links_and_names_from_the_command_line(lab: Lab) -> None:
    """--link, --add-host, --dns, --dns-search and --dns-option reach the container."""
    serve(lab, "db")
    text = ok(
        lab,
        *("run", "--rm", "--link", "db:pg", "--add-host", "a:192.0.2.1", "--add-host", "b=[::2]"),
        *("--dns", "192.0.2.53", "--dns-search", "example", "--dns-option", "ndots:2"),
        *(IMAGE, "sh", "-c", "cat /etc/hosts /etc/resolv.conf; env"),
    )
    address = lab.engine.get("db").ip
    expected = {
        f"{address}\tpg db",
        "192.0.2.1\ta",
        "::2\tb",
        "nameserver 192.0.2.53",
        "search example",
        "options ndots:2",
    }
    assert expected <= set(text.splitlines())
    assert "PG_NAME=/" in text
    ok(lab, "rm", "-f", "db")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-p", "x"), "no port"),
        (("-p", "1-3:1-2"), "equally long"),
        (("-p", "198.51.100.9:80:80"), "no address of this machine"),
        (("-p", "80", "--network", "none"), "without network"),
        (("--network", "nowhere"), "no network 'nowhere'"),
        (("--network", "host"), "network of its own"),
        (("--network", "none", "--network", "bridge"), "goes with no other"),
        (("--network-alias", "x"), "needs a network"),
        (("--link", "nobody"), "no container 'nobody'"),
        (("--add-host", "x"), "NAME:IP"),
        (("--add-host", "x:y"), "no IP address"),
        (("--dns", "example"), "no IP address"),
    ],
)
def test_bad_options_are_refused_by_name(lab: Lab, options: tuple[str, ...], says: str) -> None:
    """The engine's exit code, one line on stderr, and nothing left behind."""
    done = call(lab, "run", "--name", "web", *options, IMAGE, "true")
    assert done.returncode == 125
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert lab.leftovers() == {}


@pytest.mark.parametrize("words", [["port"], ["network"], ["network", "create"], ["network", "ls"]])
def test_help_has_an_example(lab: Lab, words: list[str]) -> None:
    """Each verb says how it is used."""
    assert "Example: shipway runtime" in ok(lab, *words, "--help")
