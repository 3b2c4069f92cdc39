"""What ports are asked for, and the leases of the host's."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.runtime.errors import InvalidSpec, NoSuchHostAddress, PortTaken
from shipway.runtime.network.publish import PortLeases, Publish, parse, parse_exposed
from support import free_port


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [Publish(80)]),
        ("8080:80", [Publish(80, 8080, 8080)]),
        ("8080:80/tcp", [Publish(80, 8080, 8080)]),
        ("53:53/UDP", [Publish(53, 53, 53, "udp")]),
        (":80", [Publish(80)]),
        ("127.0.0.1::80", [Publish(80, address="127.0.0.1")]),
        ("0.0.0.0:8080:80", [Publish(80, 8080, 8080, address="0.0.0.0")]),
        ("[::]:8080:80", [Publish(80, 8080, 8080, address="::")]),
        ("[fd00::2]::80", [Publish(80, address="fd00::2")]),
        ("8000-8001:80-81", [Publish(80, 8000, 8000), Publish(81, 8001, 8001)]),
        ("8000-8009:80", [Publish(80, 8000, 8009)]),
        ("80-82", [Publish(80), Publish(81), Publish(82)]),
    ],
)
def test_dockers_forms_are_read(text: str, wanted: list[Publish]) -> None:
    """Address, port of the host, port of the container, ranges, protocol."""
    assert list(parse(text)) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "form"),
        ("x", "no port"),
        ("0", "within 1 and 65535"),
        ("65536:80", "within 1 and 65535"),
        ("80:99999", "within 1 and 65535"),
        ("82-80", "lower port first"),
        ("8000-8002:80-81", "equally long"),
        ("80/sctp", "not tcp or udp"),
        ("80/", "not tcp or udp"),
        ("localhost:80:80", "no IP address"),
        ("1.2.3.4.5:80:80", "no IP address"),
        ("::1:80:80", "form|no port|no IP"),
        ("80:80:80:80", "form|no port|no IP"),
        ("-1:80", "no port"),
        ("8080:80;id", "no port"),
        ("８０", "no port"),
        ("8080: 80", "no port"),
    ],
)
def test_other_forms_are_refused(text: str, says: str) -> None:
    """The error names what was wrong, and nothing else is raised."""
    with pytest.raises(InvalidSpec, match=says):
        parse(text)


def test_an_image_cannot_choose_a_port_of_the_host() -> None:
    """What an image exposes is a port of its own, with or without a protocol."""
    assert parse_exposed("53/udp") == (Publish(53, protocol="udp"),)
    with pytest.raises(InvalidSpec, match="no port of a container"):
        parse_exposed("22:80")


@pytest.fixture
def leases(tmp_path: Path) -> PortLeases:
    """Leases of which everybody runs but "ended"."""
    return PortLeases(tmp_path, "127.0.0.1", lambda owner: owner != "ended")


@pytest.fixture
def port() -> Iterator[int]:
    """A free port."""
    return free_port()


def test_a_lease_is_kept_on_disk(leases: PortLeases, port: int) -> None:
    """Others who look at the folder see who has which port."""
    given, _ = leases.lease("web", parse(f"{port}:80"))
    again = PortLeases(leases.folder, "127.0.0.1", leases.is_up)
    assert again.by_owner() == {"web": given}
    assert str(given[0]) == f"127.0.0.1:{port}->80/tcp"
    leases.release(given)
    assert again.all() == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", ""])
def test_a_port_is_given_once(leases: PortLeases, port: int, address: str) -> None:
    """Another container is told who has it, be it at that address or at all."""
    leases.lease("web", parse(f"{port}:80"))
    with pytest.raises(PortTaken, match="'web'"):
        leases.lease("other", parse(f"{address}:{port}:80" if address else f"{port}:80"))
    leases.lease("other", parse(f"127.0.0.2:{port}:80") + parse(f"{port}:80/udp"))


def test_a_failed_lease_leaves_nothing(leases: PortLeases, port: int) -> None:
    """If one of several ports is taken, none is leased."""
    leases.lease("web", parse(f"{port}:80"))
    with pytest.raises(PortTaken):
        leases.lease("other", (*parse("81"), *parse(f"{port}:80")))
    assert set(leases.all().values()) == {"web"}
    assert len(os.listdir(leases.folder)) == 1


def test_who_ended_loses_the_port_to_who_starts(leases: PortLeases, port: int) -> None:
    """A container that no longer runs does not keep others from its port."""
    leases.lease("ended", parse(f"0.0.0.0:{port}:80"))
    given, lost = leases.lease("web", parse(f"{port}:80"))
    assert [each.endpoint for each in lost] == [f"0.0.0.0:{port}"]
    assert leases.by_owner() == {"web": given}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_program_of_the_host_is_named(leases: PortLeases, kind: str) -> None:
    """Where a program listens no port is published, and the error says which one it is."""
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, type_) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == "tcp":
            sock.listen()
        port = sock.getsockname()[1]
        for address in ("", "0.0.0.0:"):
            with pytest.raises(PortTaken, match=rf"process {os.getpid()} \(") as caught:
                leases.lease("web", parse(f"{address}{port}:80/{kind}"))
            assert str(port) in str(caught.value)
    assert leases.all() == {}
    leases.lease("web", parse(f"{port}:80/{kind}"))


def test_a_range_gives_its_first_free_port(leases: PortLeases, port: int) -> None:
    """With a range of the host for one port, the next is taken until there is none."""
    wish = parse(f"{port}-{port + 1}:80")
    numbers = [leases.lease(owner, wish)[0][0].host for owner in ("a", "b")]
    assert numbers == [port, port + 1]
    with pytest.raises(PortTaken, match=f"no port of {port}-{port + 1}/tcp is free"):
        leases.lease("c", wish)


def test_a_port_of_no_choice_is_ephemeral(leases: PortLeases) -> None:
    """Without a port of the host, a free one of the ephemeral range is given."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    numbers = {leases.lease(str(owner), parse("80"))[0][0].host for owner in range(20)}
    assert len(numbers) == 20
    assert all(low <= number <= high for number in numbers)


def test_an_address_of_another_machine_is_refused(leases: PortLeases) -> None:
    """The error names the address."""
    with pytest.raises(NoSuchHostAddress, match=r"198\.51\.100\.7"):
        leases.lease("web", parse("198.51.100.7:8080:80"))
    assert leases.all() == {}
