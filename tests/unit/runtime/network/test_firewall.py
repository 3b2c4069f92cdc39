"""The text of the firewall rules."""

from ipaddress import IPv4Address, IPv4Network

from shipway.runtime.network import firewall


def test_rules_name_only_our_tables_and_bridge() -> None:
    """A ruleset replaces our two tables in one go and speaks of no other."""
    port = firewall.Port("br0-0002", "02:53:0a:53:00:02", IPv4Address("10.83.0.2"))
    text = firewall.ruleset(
        "mine",
        "br0",
        IPv4Network("10.83.0.0/16"),
        [IPv4Address("10.0.0.53")],
        [IPv4Network("10.9.0.0/24")],
        [port],
    )
    tables = [line.split() for line in text.splitlines() if line.startswith(("table", "delete"))]
    assert {words[-2] if words[-1] == "{" else words[-1] for words in tables} == {"mine"}
    assert '"br0-0002" . 02:53:0a:53:00:02 . 10.83.0.2' in text
    assert "elements = { 10.0.0.53 };" in text
    assert "elements = { 10.9.0.0/24 };" in text


def test_removal_works_without_the_tables() -> None:
    """Each table is made before it is deleted, so that deleting never fails."""
    lines = firewall.removal("mine").splitlines()
    assert lines == [
        "table inet mine",
        "delete table inet mine",
        "table bridge mine",
        "delete table bridge mine",
    ]


def test_private_networks_hold_what_a_container_must_not_reach() -> None:
    """Metadata, loopback and every private range are among the refused."""
    for text in ("169.254.169.254", "127.0.0.53", "10.1.2.3", "172.31.0.1", "192.168.0.1"):
        assert any(IPv4Address(text) in network for network in firewall.PRIVATE_NETWORKS)
    assert not any(IPv4Address("192.0.2.1") in each for each in firewall.PRIVATE_NETWORKS)
