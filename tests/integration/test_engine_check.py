"""`shipway runtime check`, and what an unfit machine is told by the verbs themselves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import support
from enginelab import IMAGE, Lab, open_lab
from shipway.runtime import checks
from shipway.runtime.config import EngineConfig
from shipway.runtime.errors import HostUnfit, InvalidSpec
from shipway.runtime.oci.runtime import OciRuntime, find_runtime

NOBODY = [
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    # So that it can read the interpreter, wherever that lies.
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]
FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


@pytest.fixture
def folder() -> Iterator[Path]:
    """A scratch folder."""
    with support.scratch() as path:
        yield path


def path_without(folder: Path, *names: str) -> str:
    """A PATH with all programs of this machine but those."""
    place = folder / "bin"
    place.mkdir()
    for each in FOLDERS:
        for program in Path(each).iterdir() if Path(each).is_dir() else ():
            link = place / program.name
            if program.name not in names and not link.is_symlink():
                link.symlink_to(program)
    return str(place)


def command(
    root: Path, *args: str, path: str | None = None, before: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`shipway runtime --root ROOT ARGS`."""
    environ = support.clean_environ()
    if path is not None:
        environ["PATH"] = path
    argv = [*(before or []), sys.executable, "-m", "shipway.runtime", "--root", str(root), *args]
    return subprocess.run(
        argv, env=environ, capture_output=True, text=True, timeout=60, cwd="/", check=False
    )


def items(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `check --json` found, by item."""
    return {each["item"]: each for each in json.loads(done.stdout)["items"]}


def test_a_fit_machine_is_called_fit(folder: Path) -> None:
    """A machine that runs containers: exit 0, every item with a state, and nothing is made or left."""
    done = command(folder / "engine", "check", "--json")
    assert done.returncode == 0, done.stdout
    found = items(done)
    assert set(found) == set(checks.CHECKS)
    assert {each["state"] for each in found.values()} <= {"ok", "degraded"}
    assert "crun" in found["runtime"]["detail"] or "runc" in found["runtime"]["detail"]
    assert os.listdir(folder) == []
    text = command(folder / "engine", "check").stdout
    assert text.splitlines()[0].split() == ["ITEM", "STATE", "FOUND"]
    assert text.splitlines()[-1] == "Containers can run here."


@pytest.mark.parametrize(
    ("program", "item", "remedy"),
    [
        ("conmon", "conmon", "install Debian's package conmon"),
        ("nft", "nftables", "install Debian's package nftables"),
        ("unshare", "unshare", "install Debian's package util-linux"),
    ],
)
def test_a_missing_program_is_named_with_its_package(
    folder: Path, program: str, item: str, remedy: str
) -> None:
    """`check` says so and exits 1; `run` says it too, in one line, with Docker's 125."""
    path = path_without(folder, program)
    done = command(folder / "engine", "check", "--json", path=path)
    assert done.returncode == 1
    assert items(done)[item]["state"] == "missing"
    assert items(done)[item]["remedy"] == remedy
    text = command(folder / "engine", "check", path=path).stdout
    assert f"{item} is missing: {remedy}" in text
    assert "Containers cannot run here." in text
    done = command(folder / "engine", "run", IMAGE, "true", path=path)
    assert done.returncode == 125
    assert done.stderr == f"shipway runtime: {program} is not installed: {remedy}\n"


def test_without_any_runtime_there_is_an_error(folder: Path) -> None:
    """Neither crun nor runc: the packages are named; with runc alone it is taken, and said why."""
    path = path_without(folder, "crun", "runc", "runsc")
    done = command(folder / "engine", "check", "--json", path=path)
    assert done.returncode == 1
    assert items(done)["runtime"]["remedy"] == "install Debian's package crun or runc"
    done = command(folder / "engine", "run", IMAGE, "true", path=path)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "runc is not installed: install Debian's package runc, or crun" in done.stderr


def test_without_crun_runc_is_chosen(folder: Path) -> None:
    """What is chosen is said with its reason, and with the holes that its version has."""
    path = path_without(folder, "crun")
    found = items(command(folder / "engine", "check", "--json", path=path))
    assert "for crun is not installed" in found["runtime"]["detail"]
    assert found["known holes"]["item"] == "known holes"


@pytest.mark.parametrize(
    ("program", "item"),
    [("skopeo", "skopeo"), ("buildah", "buildah"), ("mkfs.ext4", "disk limits")],
)
def test_what_only_some_verbs_need_makes_nothing_unfit(
    folder: Path, program: str, item: str
) -> None:
    """It is degraded, with the package to install; containers run."""
    done = command(folder / "engine", "check", "--json", path=path_without(folder, program))
    assert done.returncode == 0
    assert items(done)[item]["state"] == "degraded"
    assert items(done)[item]["remedy"].startswith("install Debian's package ")


def test_who_is_not_root_is_told_so(folder: Path) -> None:
    """By check as by the verbs, without a traceback, whatever they are asked."""
    folder.chmod(0o755)
    done = command(folder / "engine", "check", "--json", before=NOBODY)
    assert done.returncode == 1
    found = items(done)
    assert found["root"]["remedy"] == found["overlay"]["remedy"] == "run as root"
    for args in (("ps",), ("run", IMAGE, "true"), ("info",), ("rm", "x")):
        done = command(folder / "engine", *args, before=NOBODY)
        assert done.returncode in (1, 125)
        assert done.stderr.endswith("run as root\n"), done.stderr
        assert done.stderr.count("\n") == 1


def test_an_engine_that_another_user_may_not_read_says_so(lab: Lab) -> None:
    """The engine's folders are root's; the error names one, not a line of code."""
    done = command(lab.config.root, "ps", before=[*NOBODY[:6]])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_read_only_data_folder_is_named(folder: Path) -> None:
    """`check` and `run` say that it is read-only, and what to do."""
    place = folder / "ro"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", place], check=True)
    try:
        found = items(command(place / "engine", "check", "--json"))["data folder"]
        assert (found["state"], found["remedy"]) == ("missing", "mount it writable")
        done = command(place / "engine", "run", IMAGE, "true")
        assert (done.returncode, done.stderr.count("\n")) == (125, 1)
        assert "is read-only: mount it writable, or choose another folder" in done.stderr
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_data_folder_is_named(folder: Path) -> None:
    """`check` and `run` say that the disk is full."""
    place = folder / "full"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=4", "none", place], check=True
    )
    try:
        for number in range(8):
            try:
                (place / str(number)).mkdir()
            except OSError:
                break
        found = items(command(place / "engine", "check", "--json"))["free disk"]
        assert (found["state"], found["remedy"]) == ("missing", "free some space")
        done = command(place / "engine", "run", IMAGE, "true")
        assert (done.returncode, done.stderr.count("\n")) == (125, 1)
        assert "the disk is full: free some space" in done.stderr
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_file_system_without_id_mapped_mounts_is_named(lab: Lab, folder: Path) -> None:
    """An engine inside of another container, on an overlay: found by check, and told by run."""
    for name in ("lower", "upper", "work", "place"):
        (folder / name).mkdir()
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    place = folder / "place"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", place], check=True)
    try:
        found = checks.check_all(EngineConfig(root=place / "engine", run=folder / "r"))
        (overlay,) = (each for each in found if each.item == "overlay")
        assert overlay.state == "missing"
        assert "takes no" in overlay.detail
        assert "ext4, xfs or btrfs" in f"{overlay.detail} {overlay.remedy}"
        assert not checks.is_fit(found)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_run_folder_that_is_too_long_is_named(lab: Lab, folder: Path) -> None:
    """Sockets below it could not be named: check says how long it may be, a start is refused."""
    run = folder / ("x" * 90)
    (finding,) = (
        each
        for each in checks.check_all(EngineConfig(root=folder / "d", run=run))
        if each.item == "run folder"
    )
    assert finding.state == "missing"
    assert (
        finding.remedy == f"choose a run folder of at most {checks.LONGEST_RUN_FOLDER} characters"
    )
    done = command(lab.config.root, "run", "--name", "y" * 63, IMAGE, "true")
    assert done.returncode in (0, 125)
    with pytest.raises(InvalidSpec, match="too long for the folder"):
        from shipway.runtime.containers.launch import check_paths

        check_paths(
            lab.engine.files("z" * 63).__class__(folder, run, "z" * 63), lab.spec("z", "true")
        )
    if done.returncode == 0:
        lab.engine.remove("y" * 63)
    assert lab.leftovers() == {}


@pytest.mark.parametrize("name", ["", "docker", "crun ", "../crun", "kata"])
def test_a_runtime_that_is_not_known_is_named(folder: Path, name: str) -> None:
    """The error lists those that are."""
    with pytest.raises(HostUnfit, match="choose auto, crun, runc, runsc"):
        find_runtime(name, folder)


@pytest.mark.skipif(bool(shutil.which("runsc")), reason="runsc is installed here")
def test_gvisors_runtime_can_be_named(folder: Path) -> None:
    """Where it is not installed the error says that Debian has no package of it."""
    with pytest.raises(HostUnfit, match="Debian has no package"):
        find_runtime("runsc", folder)


def test_what_gvisor_keeps_of_a_container_is_found(folder: Path) -> None:
    """Its two files are named after container and sandbox; of crun and runc it is a folder."""
    runsc = OciRuntime("runsc", Path("/usr/bin/runsc"), folder)
    for name in ("web_sandbox:web.state", "web_sandbox:web.lock", "web2_sandbox:web2.state"):
        (folder / name).touch()
    found = {path.name for path in runsc.state_files("web")}
    assert found == {"web_sandbox:web.state", "web_sandbox:web.lock"}
    assert not runsc.awaits_start("web")
    assert OciRuntime("crun", Path("/usr/bin/crun"), folder).state_files("web") == []


@pytest.mark.parametrize(
    ("version", "fixed", "answer"),
    [
        ("1.1.5+ds1", ((1, 2, 8), (1, 3, 3), (1, 4)), False),
        ("1.2.7", ((1, 2, 8), (1, 3, 3), (1, 4)), False),
        ("1.2.8", ((1, 2, 8), (1, 3, 3), (1, 4)), True),
        ("1.3.2", ((1, 2, 8), (1, 3, 3), (1, 4)), False),
        ("1.3.10", ((1, 2, 8), (1, 3, 3), (1, 4)), True),
        ("1.4.0", ((1, 2, 8), (1, 3, 3), (1, 4)), True),
        ("1.5.1", ((1, 3, 6), (1, 4, 3), (1, 5)), True),
        ("1.6", ((1, 3, 6), (1, 4, 3), (1, 5)), True),
        ("1.8.1", ((1, 27),), False),
        ("1.29.1", ((1, 28),), True),
        ("unknown", ((1, 28),), False),
    ],
)
def test_whether_a_version_has_a_fix(
    version: str, fixed: tuple[tuple[int, ...], ...], answer: bool
) -> None:
    """A fix comes to several release series at once."""
    assert checks.has_fix(version, fixed) is answer


# -- the command's own walls -----------------------------------------------------------------------


def test_secrets_and_a_size_are_options_of_the_command(lab: Lab, folder: Path) -> None:
    """From a file, from a descriptor and from our input; started again, they are still there."""
    value = "s3cret-" + "value"
    (folder / "file").write_text(value)
    root = lab.config.root
    source = f"id=db,src={folder}/file"
    script = "cat /run/secrets/db; df --output=size -B1M / | tail -1"
    done = command(
        root, "run", "--name", "walls", "--secret", source, "--storage-opt", "size=32m", IMAGE,
        "sh", "-c", script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(value)
    assert 28 <= int(done.stdout.removeprefix(value)) <= 32
    (folder / "file").unlink()
    again = command(root, "start", "-a", "walls")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    for path in lab.engine.files("walls").folder.rglob("*"):
        if path.is_file() and path.name not in ("disk.img", "output.log"):
            assert value.encode() not in path.read_bytes(), path
    lab.engine._tools.vault.forget("walls")
    gone = command(root, "start", "walls")
    assert gone.returncode == 1
    assert "the secrets db of container 'walls' were kept in memory only" in gone.stderr
    assert command(root, "rm", "walls").returncode == 0
    assert lab.leftovers() == {}


@pytest.mark.parametrize(
    "option",
    [
        ("--secret", "top-secret-itself"),
        ("--secret", "id=x"),
        ("--secret", "id=x,src=/not/there"),
        ("--secret", "id=../x,src=/etc/hostname"),
        ("--storage-opt", "size=1k"),
        ("--storage-opt", "size=lots"),
        ("--storage-opt", "inodes=3"),
    ],
)
def test_bad_options_are_refused_before_anything_is_made(lab: Lab, option: tuple[str, str]) -> None:
    """One line that says what would be right, and never the secret."""
    done = command(lab.config.root, "run", *option, IMAGE, "true")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (125, "", 1)
    assert "top-secret-itself" not in done.stderr
    assert lab.leftovers() == {}
