"""Secrets: files in memory, for the container's user alone, and nowhere else."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginelab import Lab, eventually, open_lab
from shipway.runtime.errors import InvalidSpec, SecretsGone

SECRET = b"correct-horse-battery-staple\0\xff\n"
NEEDLE = b"correct-horse-battery"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab
        assert lab.leftovers() == {}


def test_a_secret_is_a_file_that_only_the_user_reads(lab: Lab) -> None:
    """Its bytes are exact; it is 0400, the user's, in memory, and cannot be written or replaced."""
    code = """
        import os
        path = "/run/secrets/db"
        print(open(path, "rb").read())
        status = os.stat(path)
        print(oct(status.st_mode & 0o7777), status.st_uid, status.st_gid)
        for work in (lambda: open(path, "w"), lambda: os.unlink(path), lambda: open("/run/secrets/x", "w")):
            try:
                work()
                print("done")
            except OSError as error:
                print(error.errno)
    """
    lines = lab.python(code, secrets={"db": SECRET}).splitlines()
    assert lines[:2] == [repr(SECRET), "0o400 1000 1000"]
    assert "done" not in lines
    mine = lab.execute("cat", "/run/secrets/db", secrets={"db": b"root's"}, user="0:0")
    assert (mine[0].code, mine[1]) == (0, "root's")


def test_several_programs_see_it_and_a_neighbour_does_not(lab: Lab) -> None:
    """An additional program reads it; another container has no such folder."""
    lab.run("one", "sleep", "60", secrets={"db": b"first"})
    lab.run("two", "sleep", "60", secrets={"db": b"second"})
    for name, value in (("one", b"first"), ("two", b"second")):
        chunks: list[bytes] = []
        lab.engine.execute_in(name, ("cat", "/run/secrets/db"), output=chunks.append)
        assert b"".join(chunks) == value
    assert lab.execute("ls", "/run/secrets")[0].code != 0
    for name in ("one", "two"):
        lab.engine.remove(name)


def test_it_is_on_no_disk_in_no_config_and_in_no_argument(lab: Lab) -> None:
    """Searched for: every file of the engine, every argument and variable of every process, inspect."""
    lab.run("kept", "sh", "-c", "sleep 60", secrets={"db": SECRET})
    vault = lab.engine._tools.vault.mount
    assert f" {vault} rw" in Path("/proc/self/mountinfo").read_text()
    assert "tmpfs" in subprocess.check_output(["stat", "-f", "-c", "%T", vault], text=True)
    for folder, names, files in os.walk(lab.folder):
        if folder == str(lab.config.root):
            names[:] = [name for name in names if name not in ("images", "layers")]
        if folder.startswith(str(vault)):
            continue
        for name in files:
            path = Path(folder, name)
            if path.is_file():
                assert NEEDLE not in path.read_bytes(), path
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                assert NEEDLE not in Path("/proc", pid, name).read_bytes(), pid
            except OSError:
                continue
    assert "correct-horse" not in repr(lab.engine.get("kept"))
    assert "correct-horse" not in repr(lab.spec("x", "true", secrets={"db": SECRET}))
    lab.engine.remove("kept")
    assert list(vault.iterdir()) == []


def test_it_outlives_the_containers_end_and_goes_with_its_removal(lab: Lab) -> None:
    """A stopped container's secrets stay, so that it can be started again; removed, they are gone."""
    lab.run("kept", "sleep", "60", secrets={"db": SECRET})
    folder = lab.engine._tools.vault.folder("kept")
    lab.engine.stop("kept", 0)
    assert (folder / "db").read_bytes() == SECRET
    # Started again by a specification that no longer tells the value.
    lab.engine._tools.vault.keep(lab.spec("kept", "true", secrets={"db": None}))
    lab.engine.remove("kept")
    assert not folder.exists()


def test_a_start_without_them_is_refused(lab: Lab) -> None:
    """After a reboot, say: the error names what is missing, and nothing is left of the attempt."""
    with pytest.raises(
        SecretsGone, match="secrets api, db of container 'again' were kept in memory"
    ):
        lab.run("again", "true", secrets={"db": None, "api": None})
    assert lab.leftovers() == {}


def test_an_image_cannot_have_its_secrets_put_elsewhere(lab: Lab) -> None:
    """An image with links at /run/secrets gets them inside itself or not at all."""

    def change(tree: Path) -> None:
        (tree / "run").mkdir()
        (tree / "run/secrets").symlink_to("../" * 12 + "tmp")

    image = lab.image("test/run-secrets", change)
    before = sorted(os.listdir("/tmp"))
    lab.run("odd", "sleep", "60", image=image, secrets={"db": SECRET})
    eventually(lambda: lab.engine.get("odd").state == "running")
    assert "db" not in set(os.listdir("/tmp")) - set(before)
    lab.engine.remove("odd")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../x", "a\0b", "x" * 65, "ä"])
def test_a_name_that_is_no_file_name_is_refused(lab: Lab, name: str) -> None:
    """Names become paths, so only plain ones are taken."""
    with pytest.raises(InvalidSpec, match="secret name"):
        lab.spec("x", "true", secrets={name: b""})


def test_too_much_is_refused(lab: Lab) -> None:
    """Secrets are small; what is not is said to be too large, without being shown."""
    with pytest.raises(InvalidSpec, match="512 KiB") as refused:
        lab.spec("x", "true", secrets={"a": bytes(300 * 1024), "b": bytes(300 * 1024)})
    assert "\\x00" not in str(refused.value)
