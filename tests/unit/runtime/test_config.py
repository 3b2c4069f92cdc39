"""An engine's config: found again by its root, and nobody else's names."""

from pathlib import Path

import pytest

from shipway.runtime import config
from shipway.runtime.config import EngineConfig
from shipway.runtime.errors import HostUnfit


def test_it_is_found_by_its_root_alone(tmp_path: Path) -> None:
    """What an engine was set up with is what a command finds that is told only the root."""
    saved = EngineConfig(
        tmp_path, Path("/run/x"), bridge="b0", subnet="10.9.0.0/24", allow=("10.0.0.0/8",)
    )
    saved.save()
    assert EngineConfig.of(tmp_path) == saved


def test_new_engines_get_names_of_their_own(tmp_path: Path) -> None:
    """Two roots lead to two bridges, subnets, tables and control groups; one root always to the same."""
    one, two = EngineConfig.of(tmp_path / "one"), EngineConfig.of(tmp_path / "two")
    for name in ("run", "bridge", "subnet", "table", "cgroup"):
        assert getattr(one, name) != getattr(two, name)
    assert EngineConfig.of(tmp_path / "one") == one


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    """A config that cannot be read is an error with the file's name, not a default."""
    (tmp_path / config.NAME).write_text("{")
    with pytest.raises(HostUnfit, match=r"engine\.json is no engine's config"):
        EngineConfig.of(tmp_path)


def test_a_bridge_is_one_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second engine cannot take a bridge whose engine is still there; one that is gone holds nothing."""
    monkeypatch.setattr(config, "CLAIMS", tmp_path / "claims")
    one, two = (EngineConfig(tmp_path / name, tmp_path / "run", bridge="b0") for name in "ab")
    one.root.mkdir()
    one.claim()
    two.claim()  # of the first there is no engine.json: it was never set up, or is gone
    one.save()
    two.release()
    one.claim()
    one.claim()
    with pytest.raises(HostUnfit, match="belongs to the engine at"):
        two.claim()
    one.release()
    two.claim()
