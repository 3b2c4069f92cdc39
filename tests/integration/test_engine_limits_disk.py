"""A size for what a container writes: full for that container, and for nobody else."""

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginelab import IMAGE, Lab, eventually, open_lab
from shipway.runtime.errors import HostUnfit, InvalidSpec, RuntimeFailure
from shipway.runtime.images.commit import Change
from shipway.runtime.kernel import disk, mounts
from shipway.runtime.spec import Limits

SMALL = Limits(disk=32 * 2**20)
FILL = """
    import errno, json, os
    size = 0
    try:
        with open("/var/tmp/big", "wb", buffering=0) as file:
            for _ in range(4096):
                size += file.write(bytes(2**20))
    except OSError as error:
        print(json.dumps([error.errno, size >> 20]))
    else:
        print(json.dumps([0, size >> 20]))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab
        assert lab.leftovers() == {}


def test_a_full_disk_is_full_for_one_container_only(lab: Lab) -> None:
    """Writing past the size gives ENOSPC; a neighbour, with a size or without, and the host write on."""
    lab.run("free", "sleep", "60")
    lab.run("sized", "sleep", "60", limits=SMALL)
    number, size = json.loads(lab.python(FILL, limits=SMALL))
    assert number == errno.ENOSPC
    assert 24 <= size <= 32
    write = ("dd", "if=/dev/zero", "of=/var/tmp/x", "bs=1M", "count=8")
    for name in ("free", "sized"):
        assert lab.engine.execute_in(name, write).code == 0
    (lab.folder / "host").write_bytes(bytes(2**20))
    for name in ("free", "sized"):
        lab.engine.remove(name)
    assert eventually(lambda: not lab.loops())


def test_what_is_written_within_a_size_is_exported_and_committed(lab: Lab) -> None:
    """Export and commit hold the files of a container with a size, while it runs and after its end."""
    lab.run("sized", "sh", "-c", "echo mine > /var/tmp/mine; sleep 60", limits=SMALL)
    eventually(lambda: lab.engine.execute_in("sized", ("test", "-s", "/var/tmp/mine")).code == 0)
    for ref in ("running:1", "ended:1"):
        exported = io.BytesIO()
        lab.engine.export("sized", exported)
        exported.seek(0)
        with tarfile.open(fileobj=exported) as archive:
            member = archive.extractfile("var/tmp/mine")
            assert member is not None
            assert member.read() == b"mine\n"
        lab.engine.commit("sized", Change(ref=ref))
        again = dataclasses.replace(lab.spec("again", "cat", "/var/tmp/mine"), image=ref)
        said: list[bytes] = []
        assert lab.engine.execute(again, said.append).code == 0
        assert b"".join(said) == b"mine\n"
        lab.engine.stop("sized", grace=0)
    lab.engine.remove("sized")


def test_the_number_of_files_ends_too(lab: Lab) -> None:
    """Empty files are bounded as well: the file system has one for each 8 KiB of the size."""
    code = """
        import os
        number = 0
        try:
            while number < 20000:
                os.close(os.open(f"/var/tmp/{number}", os.O_CREAT))
                number += 1
        except OSError as error:
            print(error.errno, number)
    """
    number, count = map(int, lab.python(code, limits=SMALL).split())
    assert number == errno.ENOSPC
    assert 3000 < count <= 4096


def test_the_size_counts_what_is_written_not_the_image(lab: Lab) -> None:
    """The image's files cost nothing of it, a changed one does; df shows the size."""
    script = "df --output=size -B1M / | tail -1; du -sm /usr | cut -f1; cp /usr/bin/python3* /root/"
    _, text = lab.execute("sh", "-c", script, limits=SMALL, user="0:0")
    size, image = map(int, text.split()[:2])
    assert 28 <= size <= 32
    assert image > 100


def test_a_sized_container_is_like_any_other(lab: Lab) -> None:
    """Its own files, their owners and modes are as without a size; set-uid gives nothing."""
    script = "stat -c '%a %u' / /etc /etc/hosts; cat /etc/hostname; touch /home/x 2>&1; echo $?"
    plain = lab.execute("sh", "-c", script)[1]
    assert lab.execute("sh", "-c", script, limits=SMALL)[1] == plain


def test_the_kill_of_anybody_leaves_no_device(lab: Lab) -> None:
    """Monitor and container killed: the kernel takes mount and loop device back by itself."""
    lab.run("sized", "sleep", "60", limits=SMALL)
    assert len(lab.loops()) == 1
    files = lab.engine._files("sized")
    container = lab.engine.get("sized")
    monitor = int(files.monitor_pid.read_text())
    for pid in (monitor, container.pid):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not lab.loops())
    assert lab.engine.get("sized").state == "lost"
    lab.engine.remove("sized")


def test_its_layer_can_be_looked_into_while_it_runs_and_after(lab: Lab) -> None:
    """What the container wrote is found by the host, running or ended, with its ids as they are."""
    lab.run(
        "sized",
        "sh",
        "-c",
        "echo hello >/home/app/note || echo hello >/tmp/note; sleep 60",
        limits=SMALL,
    )
    files = lab.engine._files("sized")

    def notes(monitor: int) -> list[str]:
        with files.look() as layer:
            return [path.read_text() for path in (layer / "upper").rglob("note")]

    assert eventually(lambda: notes(1)) == ["hello\n"]
    lab.engine.stop("sized", 0)
    assert eventually(lambda: not lab.loops())
    assert notes(0) == ["hello\n"]
    assert eventually(lambda: not lab.loops())
    lab.engine.remove("sized")
    lab.run("plain", "sleep", "60")
    with lab.engine._files("plain").look() as layer:
        assert (layer / "upper/etc/hosts").exists()
    lab.engine.remove("plain")


def test_devices_beyond_the_first_eight_are_found(lab: Lab) -> None:
    """The kernel has eight loop devices at first; twelve containers with a size run at once."""
    names = [f"many{number}" for number in range(12)]
    for name in names:
        lab.run(name, "sleep", "60", limits=SMALL)
    assert len(lab.loops()) == 12
    for name in names:
        lab.engine.remove(name)
    assert eventually(lambda: not lab.loops())


@pytest.mark.parametrize("size", [0, 2**20, 2**60, -1])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    """Too small for a file system, or too large for any: said at once."""
    with pytest.raises(InvalidSpec, match="within 16 MiB and 16 TiB"):
        Limits(disk=size)


def test_a_host_without_mkfs_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package, and nothing of the container is left."""
    monkeypatch.setattr(disk, "MAKE", ["mkfs.not-installed"])
    with pytest.raises(HostUnfit, match="e2fsprogs"):
        lab.run("sized", "true", limits=SMALL)
    assert lab.leftovers() == {}


def test_a_host_without_loop_devices_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to load, and nothing of the container is left."""
    monkeypatch.setattr(disk, "CONTROL", "/dev/not-there")
    with pytest.raises(HostUnfit, match="kernel module loop"):
        lab.run("sized", "true", limits=SMALL)
    assert lab.leftovers() == {}


# -- the engine's own disk -------------------------------------------------------------------------

ON_FULL_DISK = """
import sys
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.spec import ContainerSpec, IdRange
config, image = sys.argv[1:]
try:
    engine = Engine(EngineConfig(**eval(config)))
    engine.run(ContainerSpec("victim", image, ("true",), {}, IdRange(300000)))
except RuntimeFailure as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("state", "words"), [("full", "disk is full: free some"), ("ro", "is read-only: mount it writ")]
)
def test_an_engine_whose_disk_is_full_or_read_only_says_so(
    lab: Lab, state: str, words: str
) -> None:
    """A start is refused by a named error that says what would help, and leaves nothing."""
    root = lab.config.root
    containers = root / "containers"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "none", containers], check=True
    )
    try:
        if state == "full":
            with pytest.raises(OSError, match="No space left"):
                (containers / ".filler").write_bytes(bytes(2**20))
            for number in range(64):
                try:
                    (containers / f".f{number}").touch()
                except OSError:
                    break
        else:
            subprocess.run(["mount", "-o", "remount,ro", containers], check=True)
        config = repr(vars(lab.config)).replace("PosixPath", "Path")
        done = subprocess.run(
            [sys.executable, "-c", ON_FULL_DISK, config, IMAGE],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("HostUnfit ")
        assert words in done.stdout
    finally:
        subprocess.run(["umount", containers], check=True)
    lab.engine.sweep()
    assert lab.leftovers() == {}


def test_an_error_of_the_disk_is_one_of_the_engines_own() -> None:
    """It can be caught with all others."""
    assert issubclass(HostUnfit, RuntimeFailure)


def test_a_layer_is_mounted_once_at_a_time(tmp_path: Path) -> None:
    """The kernel undoes a mount a little after its last user's end: a next start waits, or the layer would be damaged."""
    rounds = 20

    def write() -> None:
        with disk.writable(tmp_path, SMALL.disk) as layer:
            mounts.mount_private_tmpfs()
            upper = layer.attach(mounts.MOUNT_POINT / disk.PLACE) / "upper"
            number = len(list(upper.iterdir()))
            (upper / str(number)).write_bytes(os.urandom(2**20))

    for _ in range(rounds):
        mounts.in_own_mount_namespace(write)
    with disk.looked_into(tmp_path, 0, Path("/")) as folder:
        assert len(list((folder / "upper").iterdir())) == rounds
