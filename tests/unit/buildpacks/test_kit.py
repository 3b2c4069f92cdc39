"""What our own buildpacks share."""

import os
import tomllib
from pathlib import Path

import pytest

from shipway.buildpacks.kit import files, network, run, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.kit.main import run as run_build


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "layers").mkdir()
    env = {"CNB_TARGET_DISTRO_NAME": "debian", "CNB_TARGET_DISTRO_VERSION": "13"}
    return Context(str(tmp_path), str(tmp_path / "layers"), "", None, env)


def test_toml_is_read_back() -> None:
    """What is written is what a TOML parser reads."""
    document = {
        "a": 'quo"te\\ \n\x7f',
        "list": ["x", 1, True],
        "table": {"odd key": {"in": "line"}, "number": 1.5},
        "tables": [{"command": ["a", "b"]}, {"default": False}],
    }
    assert tomllib.loads(toml.dumps(document)) == document


def test_layer_is_known_by_its_fingerprint(context: Context) -> None:
    """A layer counts as the same only while its fingerprint is."""
    layer = Layer(context, "deps")
    assert not layer.made_from("x")
    layer.empty()
    layer.keep("x", launch=True, cache=True, version="1")
    assert layer.made_from("x")
    assert not layer.made_from("y")
    assert tomllib.loads(Path(f"{layer.path}.toml").read_text()) == {
        "types": {"launch": True, "build": False, "cache": True},
        "metadata": {"version": "1", "fingerprint": "x"},
    }
    layer.keep(None)
    assert not layer.made_from("x")
    assert not layer.made_from(None)


def test_layer_env(context: Context) -> None:
    """Environment files are named as the specification wants them."""
    layer = Layer(context, "deps")
    layer.set_env({"A": "1"})
    layer.prepend_path("/x", phase="build")
    top = Path(layer.path)
    assert (top / "env.launch" / "A.default").read_text() == "1"
    assert (top / "env.build" / "PATH.prepend").read_text() == "/x"
    assert (top / "env.build" / "PATH.delim").read_text() == ":"


def test_run_indents_and_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    """A program's lines are indented, progress is cut, and the code is told."""
    script = r"printf '1%%\r2%%\rdone\n'; echo secret; exit 3"
    done = run.run(["sh", "-c", script], dict(os.environ), show=lambda line: line != "secret")
    assert done == run.Done(3, ("done", "secret"))
    assert capsys.readouterr().out == "       done\n"
    assert run.run(["/no/such"], {}).code == 127


def test_files_are_read_with_care(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links out of the app, pipes and odd bytes are refused with the file and the line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "odd").write_bytes(b"a\nb\n\xff")
    (tmp_path / "out").symlink_to("/etc/passwd")
    assert files.text("good") == "text"
    assert files.there("none", "good") == ["good"]
    for name, message in (
        ("odd", "odd line 3: has bytes that are not UTF-8"),
        ("out", "out is a link out of the app"),
        ("none", "none cannot be read: No such file"),
    ):
        with pytest.raises(CannotBuild, match=message):
            files.text(name)


def test_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes with content, with a file's coming, and with what else counts."""
    monkeypatch.chdir(tmp_path)
    seen = {files.fingerprint(["a", "b"]), files.fingerprint(["a", "b"], "2")}
    (tmp_path / "a").write_text("")
    seen.add(files.fingerprint(["a", "b"]))
    (tmp_path / "a").write_text("x")
    seen.add(files.fingerprint(["a", "b"]))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("output", "host"),
    [
        ('go: x: Get "https://proxy.test/x": dial tcp: lookup proxy.test: no such host', "proxy.test"),
        ("Could not transfer artifact a:b:1 from/to central (https://maven.test/m2): maven.test: "
         "Temporary failure in name resolution", "maven.test"),
        ("npm error code ENOTFOUND\nnpm error network request to https://npm.test/x failed, reason: "
         "getaddrinfo ENOTFOUND npm.test", "npm.test"),
        ("error: Failed to fetch: `https://u:p@index.test:81/simple/x/`\n  Caused by: error sending"
         " request for url\n  Caused by: dns error", "index.test:81"),
        ("curl: (6) Could not resolve host: crates.test", "crates.test"),
        ("SyntaxError: no way", None),
    ],
)  # fmt: skip
def test_unreachable(output: str, host: str | None) -> None:
    """The host is found in what the tools of several languages say, without its password."""
    assert network.unreachable(output) == host
    advice = "\n".join(network.advice(output, ["MIRROR", "OTHER"]))
    assert (f"{host} could not be reached" in advice) == (host is not None)
    assert ("MIRROR or OTHER" in advice) == (host is not None)


def test_cannot_build_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be built ends with code 1 and its lines."""
    monkeypatch.setenv("CNB_LAYERS_DIR", "/l")
    monkeypatch.setenv("CNB_BUILDPACK_DIR", "/b")

    def build(context: Context) -> None:
        raise CannotBuild("It is wrong.", "Do this.")

    assert run_build(build) == 1
    assert capsys.readouterr().out == " !     It is wrong.\n !     Do this.\n"
