"""TOML that the lifecycle writes and reads."""

import datetime as dt
import tomllib
from pathlib import Path

import pytest

from shipway.buildpacks.kit import toml
from shipway.buildpacks.lifecycle import tomlfile
from shipway.buildpacks.lifecycle.errors import InvalidOutput


def test_round_trip() -> None:
    """What is written is read back the same, odd keys and characters included."""
    document = {
        "top": 'line\nwith "quotes" \\ and \x7f and é 😀',
        "entries": [{"name": "a b", "metadata": {"x.y": [1, 2.5, True, []], "": "empty"}}],
        "metadata": {
            "when": dt.datetime(2026, 11, 25, 4, 5, 6, tzinfo=dt.UTC),
            "deep": {"deeper": {"deepest": ["x"]}},
            "n": -3,
        },
    }
    assert tomllib.loads(toml.dumps(document)) == document


def test_missing(tmp_path: Path) -> None:
    """A file that is not there is an empty document."""
    assert tomlfile.read(str(tmp_path / "none.toml")) == {}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a = ", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"#" * (1 << 20) + b"#", "larger than 1 MB"),
    ],
)
def test_invalid(tmp_path: Path, content: bytes, what: str) -> None:
    """A file that is no TOML, or too large, is an error that names it."""
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidOutput, match=what) as error:
        tomlfile.read(str(path))
    assert str(path) in str(error.value)
