"""A container's hosts file, and the environment of its links."""

from ipaddress import IPv4Address
from pathlib import Path

from shipway.runtime.network import hosts, links
from shipway.runtime.network.publish import parse


def test_names_come_and_go_below_the_own_part(tmp_path: Path) -> None:
    """The file stays the same file, and what holds for the container's life stays in it."""
    path = tmp_path / "hosts"
    own = hosts.own_part("shop", IPv4Address("10.83.0.2"), [("db.example", "192.0.2.7")])
    hosts.write_first(path, own)
    inode = path.stat().st_ino
    hosts.rewrite(path, [hosts.line(IPv4Address("10.83.0.3"), ["pg", "db"])])
    assert path.read_text() == own + hosts.MARKER + "10.83.0.3\tpg db\n"
    assert "10.83.0.2\tshop\n" in own
    assert "192.0.2.7\tdb.example\n" in own
    hosts.rewrite(path, [])
    assert path.read_text() == own + hosts.MARKER
    assert path.stat().st_ino == inode


def test_a_file_that_is_gone_stays_gone(tmp_path: Path) -> None:
    """A container that is just removed has no hosts file to be written."""
    hosts.rewrite(tmp_path / "hosts", [])
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_told_by_the_environment() -> None:
    """Docker's variables: the lowest port first, and each port in parts."""
    found = links.environment(
        "web", "my-db", IPv4Address("10.83.0.3"), parse("5432") + parse("80/udp")
    )
    assert found == {
        "MY_DB_NAME": "/web/my-db",
        "MY_DB_PORT": "udp://10.83.0.3:80",
        "MY_DB_PORT_80_UDP": "udp://10.83.0.3:80",
        "MY_DB_PORT_80_UDP_ADDR": "10.83.0.3",
        "MY_DB_PORT_80_UDP_PORT": "80",
        "MY_DB_PORT_80_UDP_PROTO": "udp",
        "MY_DB_PORT_5432_TCP": "tcp://10.83.0.3:5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.83.0.3",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
    }
