"""The Python buildpack's decisions."""

from pathlib import Path

import pytest

from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.python import requirements, sources, version, web

HAVE = (3, 13, 5)


@pytest.mark.parametrize("wanted", ["3", "3.13", "3.13.5", "python-3.13.5", "3.13.x", "3.x"])
def test_version_fits(wanted: str) -> None:
    """A version that the stack's Python is, is taken without a remark."""
    assert version.check(wanted, ".python-version", HAVE, "Debian 13") == ""


def test_other_patch() -> None:
    """Another patch release of the same line is taken, and said."""
    note = version.check("3.13.1", ".python-version", HAVE, "Debian 13")
    assert note == ".python-version asks for 3.13.1; the Debian 13 stack has 3.13.5."


@pytest.mark.parametrize("wanted", ["3.12", "python-2.7.18", "3.1", "4"])
def test_other_line(wanted: str) -> None:
    """Another line than the stack's is told apart: it must be fetched."""
    assert version.check(wanted, "runtime.txt", HAVE, "Debian 13") is None


@pytest.mark.parametrize("wanted", ["pypy3.10", ">=3.11", "three", "3.13.5.1"])
def test_no_version(wanted: str) -> None:
    """What is no version is refused, with what was expected."""
    with pytest.raises(CannotBuild) as error:
        version.check(wanted, "runtime.txt", HAVE, "Debian 13")
    assert f"{wanted!r}, which is no Python version that can be chosen" in error.value.lines[0]
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


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(app: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["requirements.txt", "pyproject.toml"], ("requirements.txt", ())),
        (["requirements.txt", "pyproject.toml", "uv.lock"], ("uv.lock", ("pyproject.toml",))),
        (["Pipfile", "Pipfile.lock"], ("Pipfile.lock", ("Pipfile",))),
        (["pyproject.toml"], ("pyproject.toml", ())),
        (["Pipfile", "pyproject.toml"], ("Pipfile", ())),
    ],
)
def test_source(app: Path, names: list[str], chosen: tuple[str, tuple[str, ...]]) -> None:
    """A lock file is taken before what only says ranges."""
    write(app, dict.fromkeys(names, ""))
    assert sources.choose() == chosen


def test_sources_that_disagree(app: Path) -> None:
    """Lock files of two package managers, and one without its project, are refused."""
    write(app, {"uv.lock": ""})
    with pytest.raises(CannotBuild, match=r"There is uv.lock but no pyproject.toml"):
        sources.choose()
    write(app, {"poetry.lock": ""})
    with pytest.raises(CannotBuild, match=r"several package managers: uv.lock and poetry.lock"):
        sources.choose()


def test_pipfile(app: Path) -> None:
    """What Pipenv writes becomes requirements, with digests, markers, extras and places."""
    lock = """{"_meta": {"sources": [{"url": "https://a.test"}, {"url": "https://b.test/simple"}],
        "requires": {"python_version": "3.13"}},
      "default": {
        "a": {"version": "==1.0", "hashes": ["sha256:1", "sha256:2"], "markers": "os_name == 'x'"},
        "b": {"git": "https://c.test/b.git", "ref": "abc", "extras": ["x"]},
        "c": {"path": ".", "editable": true}}}"""
    wanted = """[packages]
a = "*"
b = {version = ">=2", extras = ["x", "y"]}
c = "~=1.0"
"""
    write(app, {"Pipfile.lock": lock, "Pipfile": wanted})
    assert sources.pipfile_lock() == (
        [
            "--extra-index-url https://b.test/simple",
            "a==1.0 ; os_name == 'x' --hash=sha256:1 --hash=sha256:2",
            "b[x] @ git+https://c.test/b.git@abc",
            "-e .",
        ],
        "3.13",
    )
    assert sources.pipfile() == (["a", "b[x,y]>=2", "c~=1.0"], "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n,}", "Pipfile.lock line 2, column 1: "),
        ("[]", "Pipfile.lock is not what Pipenv writes"),
    ],
)
def test_malformed_pipfile_lock(app: Path, text: str, message: str) -> None:
    """A lock file that is none names its line, and how to make it again."""
    write(app, {"Pipfile.lock": text})
    with pytest.raises(CannotBuild, match=message):
        sources.pipfile_lock()


FLASK = "from flask import Flask\napplication = Flask(__name__)\n"
FASTAPI = "import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x')\n"


@pytest.mark.parametrize(
    ("files", "asked", "command"),
    [
        ({"app.py": FLASK}, "flask\ngunicorn", "gunicorn --bind 0.0.0.0:$PORT 'app:application'"),
        ({"app.py": FLASK}, "flask", ""),
        (
            {"src/main.py": FLASK},
            "gunicorn",
            "gunicorn --bind 0.0.0.0:$PORT --chdir src 'main:application'",
        ),
        (
            {"app.py": "import flask\ndef create_app():\n"},
            "gunicorn",
            "gunicorn --bind 0.0.0.0:$PORT 'app:create_app()'",
        ),
        (
            {"app/main.py": FASTAPI},
            "uvicorn[standard]",
            "uvicorn --host 0.0.0.0 --port $PORT app.main:api",
        ),
        ({"main.py": FASTAPI}, "gunicorn", ""),
        (
            {"manage.py": "", "site/wsgi.py": ""},
            "gunicorn",
            "gunicorn --bind 0.0.0.0:$PORT site.wsgi",
        ),
        (
            {"manage.py": "", "site/asgi.py": ""},
            "uvicorn",
            "uvicorn --host 0.0.0.0 --port $PORT site.asgi:application",
        ),
        ({"app.py": "print(1)"}, "gunicorn uvicorn", ""),
    ],
)
def test_web(app: Path, files: dict[str, str], asked: str, command: str) -> None:
    """The web process is evident where the app's object and a server that it asks for are."""
    write(app, files)
    assert web.command(asked) == command
