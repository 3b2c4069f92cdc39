"""Settings: coerced, checked, documented."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from shipway.platform.errors import BadSettings
from shipway.platform.settings import Settings, load

EXAMPLE = Path(__file__).resolve().parents[3] / "platform" / "settings.example.toml"


def example() -> dict[str, object]:
    """The example file with every setting's line taken in."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        text = line.removeprefix("# ")
        is_setting = text.partition(" = ")[0] in {f.name for f in fields(Settings)}
        lines.append(text if is_setting and " = " in text else "")
    return tomllib.loads("\n".join(lines))


def test_every_setting_is_documented() -> None:
    """The example file names every setting and nothing else."""
    assert set(example()) == {f.name for f in fields(Settings)}


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    """Taking the whole example in as a settings file changes nothing (but for the sample build_env)."""
    path = tmp_path / "all.toml"
    text = "\n".join(
        line.removeprefix("# ") if line.removeprefix("# ").split(" = ")[0] in example() else ""
        for line in EXAMPLE.read_text().splitlines()
        if "build_env" not in line
    )
    path.write_text(text)
    assert load({"SHIPWAY_SETTINGS": str(path)}) == load({})


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable of the environment overrides the file's value."""
    path = tmp_path / "s.toml"
    path.write_text('router_port = 81\ndomain = "file.test"\n')
    settings = load({"SHIPWAY_SETTINGS": str(path), "SHIPWAY_ROUTER_PORT": "82"})
    assert (settings.router_port, settings.domain) == (82, "file.test")


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"SHIPWAY_ROUTER_PROT": "80"}, "SHIPWAY_ROUTER_PROT"),
        ({"SHIPWAY_ROUTER_PORT": "http"}, "SHIPWAY_ROUTER_PORT"),
        ({"SHIPWAY_ROUTER_PORT": "70000"}, "65535"),
        ({"SHIPWAY_BUILD_MEMORY": "lots"}, "512M"),
        ({"SHIPWAY_SUBNET": "10.83.0.0/33"}, "subnet"),
        ({"SHIPWAY_DATA": "relative"}, "absolute"),
        ({"SHIPWAY_DATA": "/" + "x" * 80}, "60"),
        ({"SHIPWAY_RUNTIME": "docker"}, "crun"),
        ({"SHIPWAY_BUILD_ENV": "NOSIGN"}, "SHIPWAY_BUILD_ENV"),
        ({"SHIPWAY_DOMAIN": "Exa mple"}, "domain"),
        ({"SHIPWAY_WEB_PORT": "8080"}, "different"),
        ({"SHIPWAY_SETTINGS": "/nonexistent.toml"}, "/nonexistent.toml"),
    ],
)
def test_a_bad_setting_is_refused_by_name(environ: dict[str, str], named: str) -> None:
    """An unknown name or a malformed value is refused with its name or what would be right."""
    with pytest.raises(BadSettings, match=named):
        load(environ)


def test_a_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """A misspelt key in the file is named."""
    path = tmp_path / "s.toml"
    path.write_text("ruoter_port = 81\n")
    with pytest.raises(BadSettings, match="ruoter_port"):
        load({"SHIPWAY_SETTINGS": str(path)})


def test_settings_pass_through_the_environment() -> None:
    """A child that is given `environment()` has the same settings."""
    settings = load(
        {
            "SHIPWAY_BUILD_ENV": "A=1\nB=x=y",
            "SHIPWAY_ALLOW_NETWORKS": "10.0.0.0/8 fd00::/8",
            "SHIPWAY_BUILD_MEMORY": "1G",
        }
    )
    assert load(settings.environment()) == settings
    assert settings.build_env == {"A": "1", "B": "x=y"}
    assert settings.build_memory == 1 << 30
