"""The strict reading of what buildpacks write."""

from pathlib import Path

import pytest

from shipway.buildpacks.lifecycle import checks
from shipway.buildpacks.lifecycle.errors import InvalidOutput
from shipway.buildpacks.lifecycle.plan import Option, Require

NEW, OLD = (0, 10), (0, 8)


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "file.toml"
        path.write_text(text)
        return str(path)

    return write


def test_plan(file) -> None:
    """A plan has its top level and each [[or]] as alternatives."""
    path = file(
        '[[provides]]\nname = "a"\n[[requires]]\nname = "b"\n[requires.metadata]\nversion = "1"\n'
        '[[or]]\n[[or.provides]]\nname = "c"\n'
    )
    assert checks.plan_options(path) == (
        Option(("a",), (Require("b", {"version": "1"}),)),
        Option(("c",), ()),
    )
    assert checks.plan_options(file("")) == (Option((), ()),)


def test_layer(file) -> None:
    """Types are false unless set; metadata is anything."""
    flags, data = checks.layer(file("[types]\nlaunch = true\n[metadata]\nx = [1]\n"))
    assert flags == checks.LayerFlags(launch=True)
    assert data == {"x": [1]}
    assert checks.layer(file(""))[0] == checks.LayerFlags()


def test_launch(file) -> None:
    """Processes are read by the buildpack's API: command lists from 0.9, shell lines before."""
    launch = checks.launch(
        file(
            '[[processes]]\ntype = "web"\ncommand = ["a", "b"]\nargs = ["c"]\ndefault = true\n'
            'working-dir = "sub"\n[[labels]]\nkey = "k"\nvalue = "v"\n'
        ),
        NEW,
        "/workspace",
    )
    web = checks.Process("web", ("a", "b"), ("c",), True, True, "/workspace/sub")
    assert launch == checks.Launch((web,), {"k": "v"})
    old = checks.launch(file('[[processes]]\ntype = "web"\ncommand = "a $X"\n'), OLD, "/workspace")
    assert old.processes == (checks.Process("web", ("a $X",), (), False, False, "/workspace"),)


def test_unmet(file) -> None:
    """An unmet entry is handed on."""
    assert checks.unmet(file('[[unmet]]\nname = "a"\n'), ["a", "b"]) == {"a"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("launch = true", "`launch` must be in the table"),
        ('types = "x"', "`types` must be a table"),
        ("[types]\ncache = 1", "`cache` must be true or false"),
        ("metadata = 1", "`metadata` must be a table"),
    ],
)
def test_bad_layer(file, text: str, what: str) -> None:
    """A layer file of the wrong form is an error that names the key."""
    with pytest.raises(InvalidOutput, match=what):
        checks.layer(file(text))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[[processes]]\ntype = "a/b"\ncommand = ["x"]', "may only hold"),
        ('[[processes]]\ncommand = ["x"]', "`type` is missing"),
        ('[[processes]]\ntype = "a"', "has no command"),
        ('[[processes]]\ntype = "a"\ncommand = "x"', "`command` must be a list"),
        ('[[processes]]\ntype = "a"\ncommand = [1]', "must be a list of strings"),
        ('[[processes]]\ntype = "a"\ncommand = ["x"]\ndirect = true', "`direct` ended with"),
        ('[[processes]]\ntype = "a"\ncommand = ["x"]\n' * 2, "'a' appears twice"),
        (
            '[[processes]]\ntype = "a"\ncommand = ["x"]\ndefault = true\n'
            '[[processes]]\ntype = "b"\ncommand = ["x"]\ndefault = true\n',
            "only one process type may be the default",
        ),
        ('[[labels]]\nkey = "k"\n' * 2, "label 'k' appears twice"),
        ("processes = 1", "`processes` must be a list"),
        ("processes = [1]", "`processes` must be a list of tables"),
    ],
)
def test_bad_launch(file, text: str, what: str) -> None:
    """A launch.toml of the wrong form is an error that names the key."""
    with pytest.raises(InvalidOutput, match=what):
        checks.launch(file(text), NEW, "/workspace")


def test_bad_plans(file) -> None:
    """A version outside of metadata, and an unmet name that was not asked for, are errors."""
    with pytest.raises(InvalidOutput, match="belongs in its metadata"):
        checks.plan_options(file('[[requires]]\nname = "a"\nversion = "1"\n'))
    with pytest.raises(InvalidOutput, match="'z' is not in the buildpack's plan"):
        checks.unmet(file('[[unmet]]\nname = "z"\n'), ["a"])
