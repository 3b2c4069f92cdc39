"""cp, diff and top on real containers."""

import io
import os
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginelab import Lab, eventually, open_lab
from shipway.runtime.errors import (
    CopyFailed,
    IllegalMove,
    InvalidArchive,
    NoSuchContainer,
    RuntimeFailure,
)
from shipway.runtime.filesystem.interior import Interior
from shipway.runtime.spec import Limits, Mount

ROOT = {"user": "0:0", "capabilities": frozenset({"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"})}
SETUP = """
mkdir -p /data/sub/deep /data/empty
echo one >/data/file; echo two >/data/sub/deep/file
ln -s file /data/link; ln -s /data/sub /data/dirlink; ln -s nowhere /data/dangling
mkfifo /data/pipe
chown -R 1000:1000 /data/sub; chmod 640 /data/file; chmod 1750 /data/sub
touch -d 2001-02-03T04:05:06Z /data/file
echo ready; exec sleep 60
"""


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The engine, and a check that each test's containers leave nothing when removed."""
    yield module_lab
    module_lab.clear()


@pytest.fixture(params=["running", "stopped", "limited", "limited and stopped"])
def inside(lab: Lab, request: pytest.FixtureRequest) -> Interior:
    """The file system of a container that runs or has ended, with its own size or not."""
    return prepared(lab, request.param)


def prepared(lab: Lab, state: str) -> Interior:
    """A container with some files."""
    lab.log("box").unlink(missing_ok=True)
    size = Limits(disk=64 << 20) if "limited" in state else Limits()
    lab.run("box", "sh", "-c", SETUP, limits=size, **ROOT)
    eventually(lambda: lab.says("box") == ["ready"])
    if "stopped" in state:
        lab.engine.stop("box", 0)
    return lab.engine.interior("box")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder of the machine."""
    path = tmp_path / "out"
    path.mkdir()
    return path


def tree(folder: Path) -> list[str]:
    """All that is below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def read(inside: Interior, path: str) -> bytes:
    """A file of a container."""
    pieces: list[bytes] = []
    inside.pack(path, pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        [member] = archive.getmembers()
        file = archive.extractfile(member)
        assert file
        return file.read()


DATA = ["dangling", "dirlink", "empty", "file", "link", "pipe", "sub", "sub/deep", "sub/deep/file"]


def test_a_file_comes_out_by_dockers_rules(inside: Interior, out: Path) -> None:
    """To a new name, over a file, into a folder; through links only where they are asked for."""
    inside.copy_out("/data/file", str(out / "new"))
    assert (out / "new").read_text() == "one\n"
    (out / "there").write_text("old and longer")
    inside.copy_out("data/file", str(out / "there"))
    assert (out / "there").read_text() == "one\n"
    inside.copy_out("/data/file", str(out))
    inside.copy_out("/data/link", f"{out}/")
    assert os.readlink(out / "link") == "file"
    inside.copy_out("/data/link", str(out / "followed"), follow=True)
    assert (out / "followed").read_text() == "one\n"
    (out / "onward").symlink_to("there")
    inside.copy_out("/data/sub/deep/file", str(out / "onward"))
    assert (out / "onward").is_symlink()
    assert (out / "there").read_text() == "two\n"
    status = (out / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o640, 0, 981173106)


def test_a_folder_comes_out_by_dockers_rules(inside: Interior, out: Path) -> None:
    """Into a folder with its name, its content alone with /., to a new name as that."""
    inside.copy_out("/data", str(out))
    assert tree(out / "data") == DATA
    inside.copy_out("/data/.", str(out / "content"))
    (out / "into").mkdir()
    inside.copy_out("/data/.", str(out / "into"))
    inside.copy_out("/data/", str(out / "renamed/"))
    assert tree(out / "content") == tree(out / "into") == tree(out / "renamed") == DATA
    inside.copy_out("/data/dirlink/", str(out / "followed"))
    assert tree(out / "followed") == ["deep", "deep/file"]
    assert stat.S_ISFIFO((out / "data/pipe").stat().st_mode)
    assert stat.S_IMODE((out / "data/sub").stat().st_mode) == 0o1750
    inside.copy_out("/data/sub", str(out / "kept"), keep_owner=True)
    assert {path.stat().st_uid for path in (out / "kept").rglob("*")} == {1000}


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        ("/no/such", "x", "box:/no/such: No such file"),
        ("/data/file/", "x", "no folder"),
        ("/data/file", "missing/", "no folder that is there"),
        ("/data/file", "missing/x", "No such file"),
        ("/data", "occupied", "no folder"),
        ("/data/file", "occupied/x", "Not a directory"),
        ("/dev/null", "x", "device"),
        ("/data/file/below", "x", "Not a directory"),
    ],
)
def test_what_cannot_be_copied_out_says_why(
    lab: Lab, out: Path, path: str, to: str, words: str
) -> None:
    """A wrong path on either side is an error that names it, and leaves nothing."""
    (out / "occupied").write_text("x")
    inside = prepared(lab, "running")
    with pytest.raises(CopyFailed, match=words):
        inside.copy_out(path, f"{out}/{to}")
    assert tree(out) == ["occupied"]


def test_files_go_in_by_dockers_rules(inside: Interior, out: Path) -> None:
    """The same rules the other way; all belongs to the container's root, or keeps its ids."""
    (out / "dir/sub").mkdir(parents=True)
    (out / "dir/sub/file").write_text("in")
    os.chown(out / "dir/sub/file", 1000, 1000)
    inside.copy_in(str(out / "dir"), "/data")
    inside.copy_in(str(out / "dir"), "/data/renamed")
    inside.copy_in(f"{out}/dir/.", "/data/empty")
    inside.copy_in(str(out / "dir/sub/file"), "/data/link")
    inside.copy_in(str(out / "dir/sub/file"), "/data/dirlink/")
    inside.copy_in(str(out / "dir"), "/data/kept", keep_owner=True)
    for path in ("dir/sub/file", "renamed/sub/file", "empty/sub/file", "file", "sub/file"):
        assert read(inside, f"/data/{path}") == b"in", path
    with pytest.raises(CopyFailed, match="/data/file"):
        inside.copy_in(str(out / "dir"), "/data/file")
    with pytest.raises(CopyFailed, match="already"):
        inside.copy_in(str(out / "dir/sub"), "/data/dir/sub/file/..")
        inside.copy_in(str(out / "dir/sub/file"), "/data/dir/sub")
        (out / "sub").write_text("a file named as the folder")
        inside.copy_in(str(out / "sub"), "/data/dir")
    pieces: list[bytes] = []
    inside.pack("/data", pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        owners = {member.name: (member.uid, member.gid) for member in archive.getmembers()}
    assert owners["data/renamed/sub/file"] == (0, 0)
    assert owners["data/kept/sub/file"] == (1000, 1000)
    assert owners["data/sub/deep/file"] == (1000, 1000)


def test_on_disk_all_has_the_containers_ids(lab: Lab, out: Path) -> None:
    """What is copied in can be used by the container, and lies on disk with its own ids."""
    (out / "mine").write_text("hello")
    inside = prepared(lab, "running")
    inside.copy_in(str(out / "mine"), "/home")
    assert (lab.config.root / "containers/box/layer/upper/home/mine").stat().st_uid == 0
    said: list[bytes] = []
    script = "stat -c %u:%g /home/mine; echo more >>/home/mine; cat /home/mine"
    lab.engine.execute_in("box", ("sh", "-c", script), output=said.append)
    assert b"".join(said) == b"0:0\nhellomore\n"


def test_a_tar_goes_out_and_in(inside: Interior, lab: Lab) -> None:
    """A tar has the container's ids and times, and one from elsewhere is extracted with its own."""
    pieces: list[bytes] = []
    inside.pack("/data/.", pieces.append)
    raw = b"".join(pieces)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert sorted(member.name for member in archive.getmembers()) == DATA
        assert archive.getmember("file").mtime == 981173106
    inside.unpack(io.BytesIO(raw), "/data/empty")
    assert read(inside, "/data/empty/sub/deep/file") == b"two\n"
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, link in (
            ("new/parent/file", tarfile.REGTYPE, ""),
            ("hard", tarfile.LNKTYPE, "new/parent/file"),
            ("soft", tarfile.SYMTYPE, "/etc/passwd"),
            ("device", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.uid, member.gid = kind, link, 1000, 70000
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    inside.unpack(io.BytesIO(made.getvalue()), "/data/empty/")
    assert read(inside, "/data/empty/hard") == b"abc"
    pieces.clear()
    inside.pack("/data/empty", pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        assert archive.getmember("empty/new/parent/file").uid == 1000
        assert archive.getmember("empty/new/parent/file").gid == 65534  # the container has no 70000
        assert "empty/device" not in archive.getnames()


@pytest.mark.parametrize("name", ["../up", "a/../../up", "hard"])
def test_a_tar_that_leads_out_is_refused(lab: Lab, name: str) -> None:
    """Names with .. and hard links out of the folder are errors, and nothing is written there."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo(name)
        if name == "hard":
            member.type, member.linkname = tarfile.LNKTYPE, "../file"
        archive.addfile(member, io.BytesIO(b""))
    inside = prepared(lab, "running")
    with pytest.raises(CopyFailed, match="leads out"):
        inside.unpack(io.BytesIO(made.getvalue()), "/data/empty")
    with pytest.raises(CopyFailed, match="No such file"):
        read(inside, "/data/up")


def test_a_tar_needs_a_folder(lab: Lab) -> None:
    """A tar goes to a folder that is there, and must be one."""
    inside = prepared(lab, "running")
    with pytest.raises(CopyFailed, match="no folder"):
        inside.unpack(io.BytesIO(b""), "/data/file")
    with pytest.raises(CopyFailed, match="No such file"):
        inside.unpack(io.BytesIO(b""), "/data/missing")
    with pytest.raises(InvalidArchive):
        inside.unpack(io.BytesIO(b"garbage" * 1000), "/data")
    with pytest.raises(NoSuchContainer):
        lab.engine.interior("nobody")


def test_links_lead_nowhere_outside(inside: Interior, lab: Lab, out: Path) -> None:
    """A planted link that names a file of the machine reads and writes only within the container."""
    secret, target = out / "secret", out / "target"
    secret.write_text("the machine's")
    target.mkdir()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, link in (
            ("abs", str(secret)),
            ("up", "../" * 30 + str(secret).lstrip("/")),
            ("dir", str(target)),
            ("proc", f"/proc/{os.getpid()}/root{secret}"),
            ("self", f"/proc/self/root{secret}"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    inside.unpack(io.BytesIO(made.getvalue()), "/data/empty")
    for name in ("abs", "up", "proc", "self"):
        with pytest.raises(CopyFailed):
            inside.copy_out(f"/data/empty/{name}", str(out / "got"), follow=True)
    for path in ("/data/empty/dir/x", "/data/empty/dir", "/data/empty/abs"):
        with pytest.raises(CopyFailed):
            inside.copy_in("/etc/hostname", path)
    assert sorted(os.listdir(out)) == ["secret", "target"]
    assert os.listdir(target) == []
    assert secret.read_text() == "the machine's"


RACE = """
import os, sys
target, secret = sys.argv[1:]
os.makedirs("/tmp/real/sub"); open("/tmp/real/sub/file", "w").write("own")
os.symlink(target, "/tmp/evil")
os.makedirs("/tmp/files"); os.symlink(secret, "/tmp/files/evil"); open("/tmp/files/real", "w").write("own")
os.mkdir("/tmp/race"); os.rename("/tmp/real", "/tmp/race/d"); os.rename("/tmp/files/real", "/tmp/race/f")
print("ready", flush=True)
import ctypes
swap = ctypes.CDLL(None).renameat2
while True:
    swap(-100, b"/tmp/race/d", -100, b"/tmp/evil", 2)
    swap(-100, b"/tmp/race/f", -100, b"/tmp/files/evil", 2)
"""


def test_a_container_that_swaps_links_under_a_copy_gets_nowhere(lab: Lab, out: Path) -> None:
    """While it exchanges folders and files with links to the machine's, no file of the machine is met."""
    secret, target = out / "secret", out / "target"
    secret.write_text("the machine's")
    (target / "sub").mkdir(parents=True)
    (target / "sub/file").write_text("the machine's")
    lab.run("racer", "python3", "-c", RACE, str(target), str(secret))
    eventually(lambda: lab.says("racer") == ["ready"])
    inside = lab.engine.interior("racer")
    (out / "in").mkdir()
    (out / "in/file").write_text("planted")
    deadline, done = time.monotonic() + 5, 0
    while time.monotonic() < deadline and done < 150:
        done += 1
        pieces: list[bytes] = []
        for path in ("/tmp/race", "/tmp/race/d/", "/tmp/race/d/sub/file", "/tmp/race/f"):
            try:
                inside.pack(path, pieces.append, follow=True)
            except CopyFailed:
                continue
        assert b"machine's" not in b"".join(pieces).replace(str(secret).encode(), b"")
        for source, path in (
            ("in/.", "/tmp/race/d"),
            ("in/file", "/tmp/race/d/sub/file"),
            ("in/file", "/tmp/race/f"),
        ):
            try:
                inside.copy_in(f"{out}/{source}", path)
            except CopyFailed:
                continue
    assert done > 10
    assert tree(target) == ["sub", "sub/file"]
    assert (target / "sub/file").read_text() == secret.read_text() == "the machine's"


def test_a_full_or_closed_disk_says_so(lab: Lab, out: Path) -> None:
    """A read-only root and a full tmpfs are errors by name, and no half file stays."""
    (out / "big").write_bytes(b"x" * (3 << 20))
    lab.run("closed", "sleep", "60", readonly_root=True)
    inside = lab.engine.interior("closed")
    with pytest.raises(CopyFailed, match="Read-only"):
        inside.copy_in(str(out / "big"), "/home")
    small = Mount("", "/small", kind="tmpfs", options=("size=1m", "mode=1777"))
    lab.run("small", "sleep", "60", mounts=(small,))
    inside = lab.engine.interior("small")
    with pytest.raises(CopyFailed, match="No space"):
        inside.copy_in(str(out / "big"), "/small")
    pieces: list[bytes] = []
    inside.pack("/small/.", pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        assert archive.getnames() == []


def test_a_deep_tree_and_odd_names(lab: Lab, out: Path) -> None:
    """Names of any bytes are copied; folders without end are an error, no crash."""
    lab.run(
        "odd",
        "python3",
        "-c",
        "import os\nos.chdir('/tmp')\nopen(b'\\xff\\n-', 'w').write('odd')\nos.mkdir('deep')\nos.chdir('deep')\n"
        "for _ in range(1200): os.mkdir('d'); os.chdir('d')\nprint('ready', flush=True)\nimport time; time.sleep(60)",
    )
    eventually(lambda: lab.says("odd") == ["ready"])
    inside = lab.engine.interior("odd")
    name = os.fsdecode(b"\xff\n-")
    inside.copy_out(f"/tmp/{name}", str(out))
    assert (out / name).read_text() == "odd"
    for verb in (lambda: inside.copy_out("/tmp/deep", str(out)), lambda: lab.engine.diff("odd")):
        with pytest.raises(CopyFailed, match="deep"):
            verb()
    subprocess.run(["rm", "-rf", out / "deep"], check=True)  # too deep for pytest, too
    lab.engine.remove("odd")


def test_copying_waits_for_no_pipe(lab: Lab, out: Path) -> None:
    """A named pipe is copied as one; nobody waits for its other end."""
    inside = prepared(lab, "running")
    done = threading.Thread(target=lambda: inside.copy_out("/data/pipe", str(out)), daemon=True)
    done.start()
    done.join(5)
    assert not done.is_alive()
    assert stat.S_ISFIFO((out / "pipe").stat().st_mode)


def test_a_kept_container_is_copied_to_before_its_start_and_with_its_binds(
    lab: Lab, out: Path
) -> None:
    """What is copied in before the first start is there at the start; binds are seen while it rests."""
    (out / "bound").mkdir()
    (out / "file").write_text("early")
    script = "cat /home/file /bound/file; exec sleep 60"
    mounts = (Mount(str(out / "bound"), "/bound"),)
    lab.engine.create(lab.spec("kept", "sh", "-c", script, mounts=mounts))
    inside = lab.engine.interior("kept")
    inside.copy_in(str(out / "file"), "/home")
    lab.engine.start("kept")
    eventually(lambda: lab.says("kept") == ["early"] or len(lab.says("kept")) > 1)
    lab.engine.stop("kept", 0)
    inside.copy_in(str(out / "file"), "/bound")
    assert (out / "bound/file").read_text() == "early"
    assert read(inside, "/bound/file") == b"early"
    with pytest.raises(CopyFailed, match="No such file"):
        inside.copy_out("/bound/missing", str(out))


def test_diff_tells_what_was_changed(lab: Lab) -> None:
    """Added, changed and deleted; a folder made anew, and a file that became a folder."""
    script = """
    echo x >/home/new; echo x >>/etc/passwd; rm /etc/issue; mkdir -p /opt/a/b; touch /opt/a/b/c
    rm -r /etc/alternatives; mkdir /etc/alternatives; touch /etc/alternatives/mine
    rm /etc/debian_version; mkdir /etc/debian_version; touch /etc/debian_version/inside
    touch /home/gone; rm /home/gone
    echo ready; exec sleep 60
    """
    lab.run("plain", "sleep", "60")
    assert lab.engine.diff("plain") == []
    lab.run("changed", "sh", "-c", script, **ROOT)
    lab.run("limited", "sh", "-c", script, limits=Limits(disk=64 << 20), **ROOT)
    eventually(lambda: lab.says("changed") == lab.says("limited") == ["ready"])
    running = lab.engine.diff("changed")
    assert lab.engine.diff("limited") == running
    for name in ("changed", "limited"):
        lab.engine.stop(name, 0)
        assert lab.engine.diff(name) == running
    found = [(change.kind, change.path) for change in running]
    deleted = [
        path for kind, path in found if path.startswith("/etc/alternatives/") and kind == "D"
    ]
    assert len(deleted) > 3
    assert [each for each in found if each[1] not in deleted] == [
        ("C", "/etc"),
        ("C", "/etc/alternatives"),
        ("A", "/etc/alternatives/mine"),
        ("C", "/etc/debian_version"),
        ("A", "/etc/debian_version/inside"),
        ("D", "/etc/issue"),
        ("C", "/etc/passwd"),
        ("C", "/home"),
        ("A", "/home/new"),
        ("C", "/opt"),
        ("A", "/opt/a"),
        ("A", "/opt/a/b"),
        ("A", "/opt/a/b/c"),
    ]


def test_top_shows_the_processes_as_the_machine_sees_them(lab: Lab) -> None:
    """Each process with the machine's ids, its parent, time and command line; only while it runs."""
    lab.run("busy", "sh", "-c", "sleep 61 & sleep 62 & wait")
    found = eventually(
        lambda: (
            (p := lab.engine.top("busy"))
            and sum("sleep" in each.command[:5] for each in p) == 2
            and p
        )
    )
    assert {each.pid for each in found} == lab.engine._tools.cgroups.members("busy")
    first, *others = found
    assert [each.ppid for each in others] == [first.pid, first.pid]
    assert sorted(each.command for each in others) == ["sleep 61", "sleep 62"]
    assert {each.uid for each in found} == {301000}
    assert all(abs(each.started_at - time.time()) < 30 for each in found)
    assert (first.terminal, first.share < 100) == ("?", True)
    lab.engine.stop("busy", 0)
    with pytest.raises(IllegalMove, match="busy"):
        lab.engine.top("busy")
    with pytest.raises(RuntimeFailure):
        lab.engine.top("nobody")
