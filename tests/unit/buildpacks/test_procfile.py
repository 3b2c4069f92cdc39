"""The Procfile parser."""

import tomllib

import pytest

from shipway.buildpacks.procfile import procfile


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"web: a b\n", {"web": "a b"}),
        (b"web: a\nworker: b", {"web": "a", "worker": "b"}),
        (b"\xef\xbb\xbfweb: a\r\nworker: b\r\n", {"web": "a", "worker": "b"}),
        (b"web: a\rworker: b\r", {"web": "a", "worker": "b"}),
        (b"\tweb\t:\ta\tb\t\n", {"web": "a\tb"}),
        (b"\n# comment: not a type\n\nweb: a # kept\n", {"web": "a # kept"}),
        (b"web: echo a:b\n", {"web": "echo a:b"}),
        (b"Web-2_x:a\n", {"Web-2_x": "a"}),
        ("web: echo é\n".encode(), {"web": "echo é"}),
        (b"b: 1\na: 2\n", {"b": "1", "a": "2"}),
    ],
)
def test_parses(data: bytes, expected: dict[str, str]) -> None:
    """Types and commands are found in the file's order, whatever its white space and line ends."""
    found = procfile.parse(data)
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"web: a\n\nhello\n", "line 3: has no colon, expected `<type>: <command>`"),
        (b"web:\n", "line 1: 'web' has no command"),
        (b"we b: a\n", "line 1: 'we b' is no process type"),
        (b": a\n", "line 1: '' is no process type"),
        (b"../x: a\n", "line 1: '../x' is no process type"),
        ("wéb: a\n".encode(), r"line 1: 'w\\xe9b' is no process type"),
        (b"web: a\nweb: b\n", "line 2: 'web' is already declared on line 1"),
        (b"x" * 64 + b": a\n", "line 1: the process type is 64 characters long"),
        (b"web: a\nx: \0\n", "line 2: has a NUL byte"),
        (b"web: a\nx: \xff\n", "line 2: has bytes that are not UTF-8"),
        (b"\xff\xfew\0e\0b\0", "is UTF-16 text"),
        (b"", "declares no process types"),
        (b"# only this\n", "declares no process types"),
        (b"web: " + b"a" * 70_000, "larger than 64 KB"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    """What is no Procfile is refused with the line and what was expected there."""
    with pytest.raises(procfile.InvalidProcfile, match=message):
        procfile.parse(data)


@pytest.mark.parametrize("text", ['say "hi" \\ $(x)', "tab\tdel\x7f", "é😀", "\\u0041"])
def test_toml_string(text: str) -> None:
    """Any command survives as a TOML string."""
    assert tomllib.loads(f"x = {procfile.toml_string(text)}") == {"x": text}
