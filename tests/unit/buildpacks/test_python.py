"""The Python buildpack's decisions."""

from pathlib import Path

import pytest

from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.python import requirements, version

HAVE = (3, 13, 5)


@pytest.mark.parametrize("wanted", ["3", "3.13", "3.13.5", "python-3.13.5", "3.13.x", "3.x"])
def test_version_fits(wanted: str) -> None:
    """A version that the stack's Python is, is taken without a remark."""
    assert version.check(wanted, ".python-version", HAVE, "Debian 13") is None


def test_other_patch() -> None:
    """Another patch release of the same line is taken, and said."""
    note = version.check("3.13.1", ".python-version", HAVE, "Debian 13")
    assert note == ".python-version asks for 3.13.1; the Debian 13 stack has 3.13.5."


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("3.12", "asks for Python 3.12, but the Debian 13 stack has Python 3.13.5."),
        ("python-2.7.18", "asks for Python 2.7.18, but"),
        ("pypy3.10", "'pypy3.10', which is no Python version that can be chosen"),
        (">=3.11", "which is no Python version that can be chosen"),
    ],
)
def test_version_unfit(wanted: str, message: str) -> None:
    """Any other is refused with what there is and what to write."""
    with pytest.raises(CannotBuild) as error:
        version.check(wanted, "runtime.txt", HAVE, "Debian 13")
    assert message in error.value.lines[0]
    assert "3.13" in error.value.lines[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3.13\n", "3.13"), ("\ufeff# why\n\n 3.12 # x\r\n", "3.12"), ("", None), ("#\n", None)],
)
def test_asked(text: str, expected: str | None) -> None:
    """The first line that is no comment counts."""
    assert version.asked(text) == expected


def test_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint changes with the file, with what it includes, and with the Python."""
    monkeypatch.chdir(tmp_path)
    top, base = Path("requirements.txt"), Path("sub/base.txt")
    base.parent.mkdir()
    top.write_text("-r sub/base.txt\nflask==3.1\n")
    base.write_text("-c ../requirements.txt\ngunicorn\n")
    first = requirements.fingerprint("requirements.txt", "3.13")
    assert first is not None
    assert requirements.fingerprint("requirements.txt", "3.13") == first
    assert requirements.fingerprint("requirements.txt", "3.12") != first
    base.write_text("gunicorn==23\n")
    assert requirements.fingerprint("requirements.txt", "3.13") not in (first, None)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "--editable ./lib",
        "./lib",
        "lib/package",
        "/abs/x.whl",
        "pkg @ file:///workspace/x",
        "-r missing.txt",
        "-r https://example.test/r.txt",
    ],
)
def test_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """What comes from the app's own folder, or from elsewhere, is installed anew each time."""
    monkeypatch.chdir(tmp_path)
    Path("requirements.txt").write_text(f"flask\n{line}\n")
    assert requirements.fingerprint("requirements.txt") is None


@pytest.mark.parametrize(
    "line", ["flask==3.1", "git+https://example.test/a/b@v1", "x @ https://example.test/x.whl"]
)
def test_has_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """What comes from an index or an address is the same as long as the line is."""
    monkeypatch.chdir(tmp_path)
    Path("requirements.txt").write_text(f"# comment\n--index-url https://example.test/s\n{line}\n")
    assert requirements.fingerprint("requirements.txt") is not None
