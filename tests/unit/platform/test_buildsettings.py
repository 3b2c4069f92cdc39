"""What builds are told: keys, values, ceilings."""

import pytest

from shipway.platform import buildsettings
from shipway.platform.errors import Forbidden, InvalidInput
from shipway.platform.settings import Settings

SETTINGS = Settings()


def change(**values: str) -> dict[str, str]:
    """A change by somebody who is no admin; `_` stands for `-`."""
    changes = {key.replace("_", "-"): value for key, value in values.items()}
    return buildsettings.changed(SETTINGS, {"target": "old"}, changes, is_admin=False)


def test_values_are_kept_in_one_form_and_an_empty_one_takes_back() -> None:
    """512M is 512m is 0.5G; without a value of its own an app has the platform's."""
    found = change(memory="1024m", build_dir="./a/b/", target="", timeout="60")
    assert found == {"build-dir": "a/b", "memory": "1G", "timeout": "60"}
    made = buildsettings.of(SETTINGS, {**found, "arg.A": "1"})
    assert (made.memory, made.folder, made.timeout, made.arguments) == (
        1 << 30,
        "a/b",
        60,
        {"A": "1"},
    )
    assert buildsettings.of(SETTINGS, None).disk == 10 << 30
    assert buildsettings.shown(SETTINGS, found)["cpus"] == "1.5"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("builder", "docker"),
        ("build-dir", "../x"),
        ("build-dir", "/etc"),
        ("dockerfile", "a/../../x"),
        ("target", "--x"),
        ("memory", "lots"),
        ("memory", "1M"),
        ("pids", "1.5"),
        ("pids", "٣٣٣"),
        ("timeout", "nan"),
        ("cpus", "0"),
        ("nope", "x"),
        ("arg.A B", "x"),
    ],
)
def test_what_cannot_be_taken_is_named(key: str, value: str) -> None:
    """With what is expected."""
    with pytest.raises(InvalidInput, match=r"expected|no setting of builds"):
        buildsettings.changed(SETTINGS, None, {key: value}, is_admin=True)


def test_only_an_admin_goes_beyond_the_platform() -> None:
    """Nobody takes the machine for their own builds."""
    with pytest.raises(Forbidden, match="at most 2G"):
        change(memory="4G")
    assert buildsettings.changed(SETTINGS, None, {"memory": "4G"}, is_admin=True) == {
        "memory": "4G"
    }


@pytest.mark.parametrize("text", ["", "-x", "a b", "a\nb", "x" * 600])
def test_a_buildpack_is_one_word(text: str) -> None:
    """No option, no space."""
    with pytest.raises(InvalidInput):
        buildsettings.buildpack(text)
