"""Which name servers a container is told of."""

from pathlib import Path

from shipway.runtime.network.resolver import parse_resolv_conf, read_resolver


def test_loopback_and_ipv6_servers_are_left_out() -> None:
    """A container could not reach them; search and options are kept."""
    text = "nameserver 127.0.0.53\nnameserver ::1\nnameserver 9.9.9.9 \nsearch a.b c\n# x\nnameserver\n"
    found = parse_resolv_conf(text)
    assert found.resolv_conf() == "nameserver 9.9.9.9\nsearch a.b c\n"


def test_a_local_stub_leads_to_the_servers_behind_it(tmp_path: Path) -> None:
    """With systemd-resolved's stub in resolv.conf, its own list of servers is read."""
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("nameserver 192.0.2.53\n")
    assert [str(each) for each in read_resolver((stub, real)).nameservers] == ["192.0.2.53"]


def test_no_server_is_no_error(tmp_path: Path) -> None:
    """A host without a reachable name server gives an empty list."""
    assert read_resolver((tmp_path / "none",)).nameservers == ()
