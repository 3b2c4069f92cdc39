"""Named networks on disk."""

from pathlib import Path

import pytest

from shipway.runtime.errors import InvalidSpec, NetworkExists, NetworkInUse, NoSuchNetwork
from shipway.runtime.network.named import NamedNetworks, check_host_name, check_network_name


def test_members_and_their_names_are_kept(tmp_path: Path) -> None:
    """Whoever looks sees who is on a network, and under which other names."""
    networks = NamedNetworks(tmp_path / "networks")
    networks.create("shop", {"team": "a"})
    networks.join("shop", "web.1", ["web", "front"])
    networks.join("shop", "pg", [])
    found = NamedNetworks(tmp_path / "networks").get("shop")
    assert found.members == {"pg": (), "web.1": ("web", "front")}
    assert found.labels == {"team": "a"}
    assert networks.of("pg") == ["shop"]
    networks.leave("shop", "pg")
    assert networks.of("pg") == []


def test_a_network_is_made_and_removed_once(tmp_path: Path) -> None:
    """A second of the name, one that is not there, and one that is in use are named errors."""
    networks = NamedNetworks(tmp_path)
    networks.create("shop", {})
    with pytest.raises(NetworkExists, match="shop"):
        networks.create("shop", {})
    networks.join("shop", "web", [])
    with pytest.raises(NetworkInUse, match="web"):
        networks.remove("shop")
    networks.leave("shop", "web")
    networks.remove("shop")
    with pytest.raises(NoSuchNetwork, match="shop"):
        networks.get("shop")
    assert networks.names() == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "-x", "a b", "a\n", "é", "a" * 64, "a;b", "none", "host", "bridge"],
)
def test_names_no_network_can_have(name: str) -> None:
    """Names become file names and set names, and some have a meaning."""
    with pytest.raises(InvalidSpec):
        check_network_name(name)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\tb", "a\nb", "-a", "a..b", "a.", "#", "a" * 300]
)
def test_names_no_host_can_have(name: str) -> None:
    """They become lines of hosts files."""
    with pytest.raises(InvalidSpec):
        check_host_name(name)
