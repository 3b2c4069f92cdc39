"""The environment rules of the specification."""

from pathlib import Path

import pytest

from shipway.buildpacks.lifecycle import env
from shipway.buildpacks.lifecycle.errors import InvalidOutput


def write(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_actions(tmp_path: Path) -> None:
    """Each suffix does what the specification's table says; contents are taken as they are."""
    (tmp_path / "some-dir").mkdir()
    write(
        tmp_path,
        APPEND__append="new",
        APPEND_NEW__append="new",
        APPEND_DELIM__append="new",
        APPEND_DELIM__delim="[]",
        APPEND_DELIM_NEW__append="new",
        APPEND_DELIM_NEW__delim="[]",
        PREPEND__prepend="new",
        PREPEND_DELIM__prepend="new",
        PREPEND_DELIM__delim="[]",
        DEFAULT__default="new",
        DEFAULT_NEW__default="new",
        DEFAULT_EMPTY__default="new",
        OVERRIDE__override="new",
        PLAIN=" $HOME\n",
        IGNORED__unknown="new",
    )
    values = dict.fromkeys(
        ["APPEND", "APPEND_DELIM", "PREPEND", "PREPEND_DELIM", "DEFAULT", "OVERRIDE", "PLAIN"],
        "old",
    ) | {"DEFAULT_EMPTY": ""}
    env.add_dir(values, str(tmp_path))
    assert values == {
        "APPEND": "oldnew",
        "APPEND_NEW": "new",
        "APPEND_DELIM": "old[]new",
        "APPEND_DELIM_NEW": "new",
        "PREPEND": "newold",
        "PREPEND_DELIM": "new[]old",
        "DEFAULT": "old",
        "DEFAULT_NEW": "new",
        "DEFAULT_EMPTY": "new",
        "OVERRIDE": "new",
        "PLAIN": " $HOME\n",
    }


def test_path_folders(tmp_path: Path) -> None:
    """A layer's folders go before what the path variables hold, for the build and for the launch."""
    for name in ("bin", "lib", "include", "pkgconfig"):
        (tmp_path / name).mkdir()
    build = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": ""}
    env.add_root(build, str(tmp_path), env.BUILD_PATHS)
    assert build == {
        "PATH": f"{tmp_path}/bin:/usr/bin",
        "LD_LIBRARY_PATH": f"{tmp_path}/lib",
        "LIBRARY_PATH": f"{tmp_path}/lib",
        "CPATH": f"{tmp_path}/include",
        "PKG_CONFIG_PATH": f"{tmp_path}/pkgconfig",
    }
    launch: dict[str, str] = {}
    env.add_root(launch, str(tmp_path), env.LAUNCH_PATHS)
    assert launch == {"PATH": f"{tmp_path}/bin", "LD_LIBRARY_PATH": f"{tmp_path}/lib"}


def test_user_env() -> None:
    """The user's values replace all but path variables, which they go before."""
    values = env.with_user_env(
        {"PATH": "/bin", "X": "old", "EMPTY": ""},
        {"PATH": "/mine", "X": "new", "LIBRARY_PATH": "/l"},
    )
    assert values == {"PATH": "/mine:/bin", "X": "new", "EMPTY": "", "LIBRARY_PATH": "/l"}


def test_operator_env() -> None:
    """The operator's values follow the suffix rules and are defaults without a suffix."""
    values = env.with_operator_env(
        {"EMPTY": "", "EXIST": "app", "FORCED": "app"},
        {
            "EMPTY": "operator",
            "EXIST": "operator",
            "FORCED.override": "operator",
            "LIST.append": "b",
            "LIST.prepend": "a",
            "LIST.delim": ":",
        },
    )
    expected = {"EMPTY": "operator", "EXIST": "app", "FORCED": "operator", "LIST": "a:b"}
    assert values == expected


def test_inherited() -> None:
    """Of the lifecycle's own environment only the specification's list reaches a buildpack."""
    assert env.inherited({"PATH": "/bin", "HOME": "/h", "SECRET": "x", "PYTHONPATH": "/y"}) == {
        "PATH": "/bin",
        "HOME": "/h",
    }


def test_no_folder(tmp_path: Path) -> None:
    """A missing env folder changes nothing."""
    values = {"A": "b"}
    env.add_dir(values, str(tmp_path / "none"))
    assert values == {"A": "b"}


@pytest.mark.parametrize(
    ("name", "value"), [("A", "b\0c"), ("A=B.override", "x"), (".override", "x")]
)
def test_what_no_environment_can_hold(tmp_path: Path, name: str, value: str) -> None:
    """The file is named; nothing crashes on it later."""
    (tmp_path / name).write_text(value)
    with pytest.raises(InvalidOutput, match="is no variable"):
        env.add_dir({}, str(tmp_path))
