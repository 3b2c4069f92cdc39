"""What an app's project.toml says, where it is written to hold up the process that reads it."""

from pathlib import Path

import pytest

from shipway.buildpacks import project
from shipway.buildpacks.errors import BuildFailed


def test_a_key_of_countless_parts_is_refused(tmp_path: Path) -> None:
    """It would take hours to read."""
    (tmp_path / "project.toml").write_text("\n" + "a." * 500_000 + "a = 1\n")
    with pytest.raises(BuildFailed, match="line 2 has more than 500 dots"):
        project.read(tmp_path)


def test_patterns_that_take_years_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says which patterns; other threads of the process go on meanwhile."""
    monkeypatch.setattr(project, "SWEEP_TIME", 1)
    (tmp_path / ("a" * 200)).touch()
    with pytest.raises(BuildFailed, match="the patterns of `exclude` take more than 1 seconds"):
        project.leave_out(tmp_path, project.Project(exclude=("a*" * 40 + "b",)))
    assert (tmp_path / ("a" * 200)).exists()
