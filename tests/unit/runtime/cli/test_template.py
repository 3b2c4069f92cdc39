"""--format: what of Go's templates is understood, and what is refused."""

import pytest

from shipway.runtime.cli.template import render
from shipway.runtime.errors import InvalidSpec

DATA = {
    "ID": "abc",
    "State": {"Pid": 7, "Running": True, "Error": None},
    "Labels": {"a.b": "c"},
    "LabelMap": {"a.b": "c"},
    "Args": ["x", "y"],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.ID}}", "abc"),
        ("{{ .ID }} {{.State.Pid}}", "abc 7"),
        ("{{.State.Running}}", "true"),
        ("{{.State.Error}}", "<no value>"),
        ("{{json .State.Pid}}", "7"),
        ("{{json .Args}}", '["x", "y"]'),
        ("{{.Args}}", "[x y]"),
        ("{{.Labels}}", "map[a.b:c]"),
        ('{{index .Labels "a.b"}}', "c"),
        ('{{index .Labels "none"}}', ""),
        ('{{.Label "a.b"}}', "c"),
        ("{{upper .ID}}-{{len .Args}}", "ABC-2"),
        ("a\\tb", "a\tb"),
        ("plain", "plain"),
    ],
)
def test_what_people_use(template: str, expected: str) -> None:
    """Fields, paths, json, index, labels and cases give what Docker gives."""
    assert render(template, DATA) == expected


@pytest.mark.parametrize(
    "template", ["{{.Nothing}}", "{{.State.Pid.X}}", "{{range .Args}}", "{{exec .ID}}", "{{.ID"]
)
def test_what_is_not_understood_is_refused(template: str) -> None:
    """A wrong field or an unknown action is named, never shown as if it were nothing."""
    with pytest.raises(InvalidSpec, match="format"):
        render(template, DATA)
