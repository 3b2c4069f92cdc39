"""Containers where mounts are not id-mapped: layers are copied, and shifted, for each range of ids."""

import errno
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import support
from enginelab import IDS, IMAGE, Lab, eventually, open_lab
from shipway.runtime import checks
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.ids import shift
from shipway.runtime.images.commit import Change
from shipway.runtime.images.rootfs import take_in
from shipway.runtime.spec import ContainerSpec, IdRange, Limits, Mount, Overlay

OTHERS = IdRange(500000)
ROOT = {
    "user": "0:0",
    "capabilities": frozenset(
        {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"}
    ),
}
# A capability as setcap writes it (linux/capability.h): version 2, effective, cap_net_raw.
NET_RAW = struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0)
# user::rwx user:7:r-- group::r-x mask::r-x other::--- (linux/posix_acl_xattr.h).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 7, 2**32 - 1),
        (2, 4, 7),
        (4, 5, 2**32 - 1),
        (16, 5, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)
TIME = (10**18, 10**18)


@pytest.fixture(scope="module", name="module_lab")
def fixture_module_lab() -> Iterator[Lab]:
    """One engine that has the kernel map no ids, for all tests of this file."""
    with open_lab(__name__, idmap="never") as lab:
        lab.image("odd:1", make_odd)
        yield lab
        assert lab.leftovers() == {}


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The engine, with nothing of another test in it."""
    yield module_lab
    for container in module_lab.engine.list():
        module_lab.engine.remove(container.id)
    for log in module_lab.folder.glob("*.log"):
        log.unlink()
    module_lab.engine.images.prune((), 0.0)
    assert copies(module_lab) == {}


@pytest.fixture(scope="module")
def mapped() -> Iterator[Lab]:
    """An engine with the same images, that has the kernel map ids."""
    with open_lab(f"{__name__}-mapped") as lab:
        lab.image("odd:1", make_odd)
        yield lab
        assert lab.leftovers() == {}


def make_odd(tree: Path) -> None:
    """A layer with an entry of each kind that a copy could spoil."""
    odd = tree / "odd"
    (odd / "folder/deep").mkdir(parents=True)
    (odd / "folder/deep/file").write_text("deep")
    (odd / "plain").write_text("plain")
    os.link(odd / "plain", odd / "hard")
    (odd / "link").symlink_to("plain")
    os.mkfifo(odd / "pipe")
    (odd / "setid").write_text("#!")
    os.chown(odd / "setid", 33, 34)
    (odd / "setid").chmod(0o6755)
    (odd / "capable").write_text("able")
    os.setxattr(odd / "capable", "security.capability", NET_RAW)
    os.setxattr(odd / "capable", "user.note", b"mine")
    (odd / "listed").write_text("listed")
    os.setxattr(odd / "listed", "system.posix_acl_access", ACL)
    (odd / "far").write_text("far")
    os.chown(odd / "far", 70000, 70000)
    # Debian's folder is made anew without its content, and one of its files is deleted.
    (tree / "etc/skel").mkdir(parents=True)
    os.setxattr(tree / "etc/skel", "trusted.overlay.opaque", b"y")
    os.mknod(tree / "etc/debian_version", stat.S_IFCHR, os.makedev(0, 0))
    (tree / "var").mkdir()
    (tree / "var/mine").mkdir()
    os.chown(tree / "var/mine", 1000, 1000)


def seen(lab: Lab, **changes: object) -> list[str]:
    """Owner, mode, links and marks of all that the odd layer touches, as a container sees it."""
    code = """
        import os
        for top in ("/odd", "/etc", "/var/mine", "/usr/bin", "/home"):
            for folder, folders, files in os.walk(top):
                for path in sorted([folder, *(os.path.join(folder, each) for each in files)]):
                    found = os.lstat(path)
                    marks = {} if os.path.islink(path) else {
                        name: os.getxattr(path, name) for name in sorted(os.listxattr(path))
                        if name != "security.selinux"
                    }
                    # Of the others the stack's cache has names too.
                    links = found.st_nlink if top == "/odd" else ""
                    print(path, found.st_uid, found.st_gid, oct(found.st_mode), links, marks)
    """
    return sorted(lab.python(code, image="odd:1", **changes).splitlines())


def copies(lab: Lab) -> dict[str, list[str]]:
    """The shifted copies of layers, by the range they are for."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(lab.engine.layers.folder):
        if name[0] != "." and "." in name:
            found.setdefault(name.partition(".")[2], []).append(name.partition(".")[0])
    return found


def test_a_container_sees_what_it_would_see_if_the_kernel_mapped(lab: Lab, mapped: Lab) -> None:
    """Owners, modes, set-id bits, ACLs, capabilities, hard links and deletions are the image's."""
    found = seen(lab)
    assert found == seen(mapped)
    assert any(line.startswith("/odd/setid 33 34 0o106755 1") for line in found)
    assert any(line.startswith("/odd/hard 0 0 0o100644 2") for line in found)
    assert any(line.startswith("/odd/far 65534 65534") for line in found)
    assert any("/odd/capable" in line and "security.capability" in line for line in found)
    assert not any(line.startswith(("/etc/debian_version", "/etc/skel/")) for line in found)


def test_root_inside_is_nobody_outside(lab: Lab) -> None:
    """Root's files have the range's first id on disk, its program too; the host's root stays hidden."""
    lab.run("one", "sh", "-c", "id -u; touch /made /etc/mine; exec sleep 60", **ROOT)
    made = lab.engine.files("one").upper / "made"
    eventually((lab.engine.files("one").upper / "etc/mine").exists)
    assert (made.stat().st_uid, made.stat().st_gid) == (IDS.base, IDS.base)
    pid = lab.engine.get("one").pid
    assert f"Uid:\t{IDS.base}\t" in Path(f"/proc/{pid}/status").read_text()
    own = "stat -c %u:%g /etc/hosts /etc/hostname /etc/resolv.conf /etc /"
    said: list[bytes] = []
    assert lab.engine.execute_in("one", ("sh", "-c", own), output=said.append).code == 0
    assert b"".join(said).split() == [b"0:0"] * 5
    assert lab.says("one")[0] == "0"
    lab.engine.remove("one")


def test_what_was_written_is_there_after_a_restart(lab: Lab) -> None:
    """Data is kept with its owners, is copied out and in and told by diff, running or not."""
    script = "test -e /var/mine/data || echo one > /var/mine/data; exec sleep 60"
    lab.engine.create(lab.spec("kept", "sh", "-c", script, image="odd:1"))
    inside = lab.engine.interior("kept")
    inside.copy_in("/etc/hostname", "/var/mine/before", keep_owner=False)  # before its first start
    lab.engine.start("kept")
    data = lab.engine.files("kept").upper / "var/mine/data"
    eventually(lambda: data.exists() and data.read_text() == "one\n")
    for _ in range(2):
        folder = Path(lab.folder, "out")
        folder.mkdir()
        inside.copy_out("/var/mine/data", str(folder), keep_owner=True)
        assert (folder / "data").read_text() == "one\n"
        assert (folder / "data").stat().st_uid == 1000
        inside.copy_out("/odd", str(folder), keep_owner=True)
        assert (folder / "odd/setid").stat().st_uid == 33
        shutil.rmtree(folder)
        inside.copy_in("/etc/hostname", "/var/mine/in")
        assert (data.parent / "in").stat().st_uid == IDS.base
        changed = {(each.kind, each.path) for each in lab.engine.diff("kept")}
        assert {("A", "/var/mine/data"), ("A", "/var/mine/before"), ("C", "/var/mine")} <= changed
        assert not any(path.startswith(("/etc/", "/usr")) for _, path in changed)
        assert data.stat().st_uid == IDS.base + 1000
        lab.engine.stop("kept", 0.0)
    lab.engine.start("kept")
    said: list[bytes] = []
    read = (
        "sh",
        "-c",
        "cat /var/mine/data && echo two >> /var/mine/data && stat -c %u /var/mine/*",
    )
    assert lab.engine.execute_in("kept", read, output=said.append).code == 0
    assert b"".join(said).split() == [b"one", b"0", b"1000", b"0"]
    lab.engine.remove("kept")


# Changes a file of each kind, below or new, and gives all a fixed time.
WRITE = f"""
    import os, shutil
    os.chmod("/odd/capable", 0o700)
    os.chmod("/odd/setid", 0o4711)
    os.chmod("/odd/listed", 0o755)
    os.link("/odd/plain", "/odd/harder")
    os.unlink("/odd/link")
    shutil.rmtree("/odd/folder")
    os.makedirs("/odd/folder/new")
    os.mkfifo("/odd/folder/pipe")
    for number, name in enumerate(("user", "setid", "capable", "listed")):
        with open(f"/odd/folder/{{name}}", "w") as file:
            file.write(name)
        os.chown(file.name, 1000 + number, 1000)
    os.chmod("/odd/folder/setid", 0o6755)
    os.setxattr("/odd/folder/listed", "system.posix_acl_access", {ACL!r})
    os.setxattr("/odd/folder/new", "system.posix_acl_default", {ACL!r})
    os.setxattr("/odd/folder/capable", "security.capability", {NET_RAW!r})
    os.rmdir("/var/mine")
    for top in ("/odd", "/var", "/etc"):
        for folder, folders, files in os.walk(top):
            for name in [*folders, *files, "."]:
                if os.lstat(f"{{folder}}/{{name}}").st_mtime > 1600000000:
                    try:
                        os.utime(f"{{folder}}/{{name}}", ns={TIME}, follow_symlinks=False)
                    except OSError:
                        pass
    print("done")
"""


@pytest.mark.parametrize("limits", [Limits(), Limits(disk=32 << 20)], ids=["folder", "disk"])
def test_a_commit_is_the_same_image_as_if_the_kernel_mapped(
    lab: Lab, mapped: Lab, limits: Limits
) -> None:
    """What a container changed, committed and exported, has the container's own ids, bit by bit."""
    committed, exported = [], []
    for each in (lab, mapped):
        program = ("python3", "-c", textwrap.dedent(WRITE))
        each.run("writer", *program, image="odd:1", limits=limits, **ROOT)
        assert each.engine.wait("writer", 20)
        assert each.says("writer") == ["done"]
        committed.append(each.engine.commit("writer", Change(ref="changed:1")))
        output = io.BytesIO()
        each.engine.export("writer", output)
        output.seek(0)
        with tarfile.open(fileobj=output) as archive:
            exported.append(
                [
                    (item.name, item.uid, item.gid, item.mode, item.size, item.linkname, item.type)
                    for item in archive
                ]
            )
        each.engine.remove("writer")
        each.log("writer").unlink()
    assert committed[0].layers[-1] == committed[1].layers[-1]
    assert committed[0].digest == committed[1].digest
    assert exported[0] == exported[1]
    assert any(item[:4] == ("odd/folder/setid", 1001, 1000, 0o6755) for item in exported[0])
    said = lab.execute("stat", "-c", "%u:%a", "/odd/folder/setid", image="changed:1")[1]
    assert said == "1001:6755\n"


def test_a_size_for_what_it_writes(lab: Lab) -> None:
    """A container with a disk of its own size writes there as its user, and finds it again."""
    limits = Limits(disk=32 << 20)
    script = "cat /var/mine/data; id -u > /var/mine/data; head -c 64M /dev/zero > /var/mine/big"
    lab.engine.create(lab.spec("sized", "sh", "-c", script, image="odd:1", limits=limits))
    for _ in range(2):
        lab.engine.start("sized")
        assert lab.engine.wait("sized", 20)
    said = "\n".join(lab.says("sized"))
    assert said.count(os.strerror(errno.ENOSPC)) == 2
    assert "\n1000\n" in said
    lab.engine.remove("sized")


def test_secrets_are_the_users(lab: Lab) -> None:
    """A secret is read by the container's user, and by nobody else inside."""
    said = lab.execute(
        "sh",
        "-c",
        "cat /run/secrets/key; stat -c :%u /run/secrets/key",
        secrets={"key": b"hunter2"},
    )[1]
    assert said == "hunter2:1000\n"


def test_two_apps_share_nothing_writable(lab: Lab) -> None:
    """Each range has its own copy, with its own ids, that no container can change, nor the layer."""
    layers = [layer.diff_id[7:] for layer in lab.engine.images.get("odd:1").layers]
    script = "echo $0 > /odd/plain; echo $0 > /odd/new; cat /odd/plain; exec sleep 60"
    for name, ids in (("one", IDS), ("two", OTHERS)):
        lab.run(name, "sh", "-c", script, name, image="odd:1", ids=ids, **ROOT)
    for name in ("one", "two"):
        assert eventually(lambda name=name: lab.says(name)) == [name]
    found = copies(lab)
    assert set(found) == {"300000-65536", "500000-65536"}
    folder = lab.engine.layers.folder
    paths = [
        folder / f"{layers[-1]}{each}/odd/plain" for each in ("", ".300000-65536", ".500000-65536")
    ]
    assert [path.stat().st_uid for path in paths] == [0, 300000, 500000]
    assert len({path.stat().st_ino for path in paths}) == 3
    assert {path.read_text() for path in paths} == {"plain"}
    assert not any((path.parent / "new").exists() for path in paths)
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("one", "two"):
        lab.engine.remove(name)


def test_what_a_container_is_lent_is_given_back(lab: Lab) -> None:
    """An overlay's upper folder and an own bind have the container's own ids again at its end."""
    top, own, lower = (lab.folder / name for name in ("top", "own", "lower"))
    for folder in (top, top / "upper", top / "work", own, lower):
        folder.mkdir()
        os.chown(folder, 1000, 1000)
    (lower / "below").write_text("below")
    (own / "before").write_text("before")
    os.chown(own / "before", 1000, 1000)
    overlay = Overlay("/layers", (lower,), top / "upper", top / "work")
    script = (
        "cat /layers/below /own/before; echo > /layers/made; echo >> /own/before; mkdir /own/new"
    )
    ended, said = lab.execute(
        *("sh", "-ec", script),
        overlays=(overlay,),
        mounts=(Mount(str(own), "/own", own=True),),
    )
    assert (ended.code, said) == (0, "belowbefore")
    for path in (top / "upper/made", top / "upper", own / "before", own / "new", own):
        assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1000), path


def test_a_volume_that_is_made_is_the_containers(lab: Lab) -> None:
    """A folder for -v that was not there belongs to the container's root; one that was is not touched."""
    run = ["shipway", "runtime", "--root", str(lab.config.root), "run", "--rm", "-u", "0:0"]
    there, new = lab.folder / "there", lab.folder / "volumes/new"
    there.mkdir()
    for folder in (new, new, there):
        shell = ["sh", "-c", "echo $$ >> /v/file"]
        done = subprocess.run(
            [*run, "-v", f"{folder}:/v", IMAGE, *shell],
            capture_output=True,
            text=True,
            timeout=60,
            env=support.clean_environ(),
        )
        assert ("ermission denied" in done.stderr) == (folder == there), done.stderr
    assert (new / "file").stat().st_uid == new.stat().st_uid >= lab.config.ids
    assert there.stat().st_uid == 0


KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.images import layers
from shipway.runtime.spec import ContainerSpec, IdRange

root, step = sys.argv[1:]
owner, name, after = {
    "copy": (layers, "_copy", True),
    "moving": (layers.shift, "_move_one", 500),
    "moved": (layers.shift, "move_tree", 3),
    "rename": (layers.LayerStore, "_mark", True),
}[step]
original, count = getattr(owner, name), [0]

def deadly(*args):
    original(*args)
    count[0] += 1
    if count[0] >= after:
        os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, deadly)
engine = Engine(EngineConfig.of(Path(root)))
engine.run(ContainerSpec("victim", "odd:1", ("true",), {}, IdRange(700000)))
"""


@pytest.mark.parametrize("step", ["copy", "moving", "moved", "rename"])
def test_who_shifts_is_killed(
    lab: Lab, mapped: Lab, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was cut short is taken for nothing: the next start makes it whole, a prune clears it."""
    command = [sys.executable, "-c", KILLED, lab.config.root, step]
    assert subprocess.run(command, timeout=60).returncode == -9
    base = lab.engine.images.get(IMAGE).layers[0].diff_id[7:]
    assert base not in copies(lab).get("700000-65536", ())
    ids = IdRange(700000)
    assert seen(lab, ids=ids) == seen(mapped, ids=ids)
    lab.engine.sweep()
    monkeypatch.setattr("shipway.runtime.images.blobs.STALE", 0.0)  # of staging that nobody holds
    lab.engine.images.prune((), 0.0)
    assert copies(lab) == {}
    assert os.listdir(lab.engine.layers.folder / ".staging") == []
    assert lab.leftovers() == {}


def test_prune_leaves_what_a_container_needs(lab: Lab) -> None:
    """Copies go with the last container of their range, and with their layer."""
    lab.engine.create(lab.spec("kept", "cat", "/odd/plain", image="odd:1"))
    lab.engine.start("kept")
    assert lab.engine.wait("kept", 20)
    lab.execute("true", image="odd:1", ids=OTHERS)
    assert set(copies(lab)) == {"300000-65536", "500000-65536"}
    lab.engine.images.prune((), 0.0)
    assert set(copies(lab)) == {"300000-65536"}
    lab.engine.start("kept")
    assert lab.engine.wait("kept", 20)
    assert "".join(lab.says("kept")) == "plainplain"
    lab.engine.remove("kept")
    lab.engine.images.prune((), 0.0)
    assert copies(lab) == {}


def test_a_container_goes_on_when_the_way_changes(lab: Lab) -> None:
    """What it wrote keeps its owners when the next start has ids mapped by the kernel, and back."""
    other = Engine(replace(lab.config, idmap="auto"))
    script = "id -u >> /var/mine/data; stat -c %u /var/mine/data; cat /var/mine/data"
    lab.engine.create(lab.spec("moved", "sh", "-ec", script, image="odd:1"))
    data = lab.engine.files("moved").upper / "var/mine/data"
    for number, (engine, owner) in enumerate(
        ((lab.engine, IDS.base + 1000), (other, 1000), (lab.engine, IDS.base + 1000))
    ):
        engine.start("moved")
        ended = engine.wait("moved", 20)
        assert ended is not None
        assert ended.code == 0
        assert data.stat().st_uid == owner
        assert lab.says("moved")[-1 - number :] == ["1000"] * (number + 1)
    lab.engine.remove("moved")


def test_ids_that_could_be_mistaken_are_refused(lab: Lab) -> None:
    """A range below its own size could not be told from a container's own ids."""
    with pytest.raises(InvalidSpec, match="must begin at 65536 or above"):
        lab.run("low", "true", ids=IdRange(1000))
    assert lab.leftovers() == {}


def test_info_and_check_tell_the_way(lab: Lab, mapped: Lab) -> None:
    """It is known from outside whether layers are copied, and why."""
    assert lab.engine.info()["ids"] == "shifted copies"
    assert mapped.engine.info()["ids"] == "mapped by the kernel"
    found = {each.item: each for each in checks.check_all(lab.config)}
    assert found["overlay"].state == "degraded"
    assert "copied" in found["overlay"].detail
    assert checks.is_fit(list(found.values()))
    assert EngineConfig.of(lab.config.root).idmap == "never"


@pytest.fixture
def ramfs(lab: Lab) -> Iterator[Path]:
    """A folder on a file system that takes overlays, but no id-mapped mounts."""
    place = lab.folder / "ram"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def test_a_file_system_that_takes_no_id_mapped_mounts(
    ramfs: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out by trying, once, and containers run on it all the same."""
    bridge, subnet = support.network_names(f"{__name__}-ram")
    config = EngineConfig(ramfs / "d", lab.folder / "rr", bridge, subnet, bridge, bridge)
    engine = Engine(config)
    engine.setup()
    try:
        take_in(engine.images, io.BytesIO(little_image()), "little:1")
        said: list[bytes] = []
        spec = ContainerSpec("one", "little:1", ("/bin/stat", "-c", "%u", "/bin", "/mine"), {}, IDS)
        assert engine.execute(spec, said.append).code == 0
        assert b"".join(said).split() == [b"0", b"1000"]
        assert engine.info()["ids"] == "shifted copies"
        found = {each.item: each for each in checks.check_all(config)}
        assert found["overlay"].state == "degraded"
        assert "ramfs" in found["overlay"].detail
        monkeypatch.setattr("shipway.runtime.containers.idmapping.refusal", refused_again)
        assert Engine(config).info()["ids"] == "shifted copies"
    finally:
        engine.teardown()


def refused_again(*_: object) -> str:
    """In place of a second trial."""
    raise AssertionError("it was tried again")


def little_image() -> bytes:
    """The tar of a root file system that has the host's `stat` and what that needs."""
    listed = subprocess.run(["ldd", "/bin/stat"], capture_output=True, text=True, check=True)
    words = [word for word in listed.stdout.split() if word.startswith("/")]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for path in ("/bin/stat", *words):
            archive.add(os.path.realpath(path), path, filter=_of(0))
        for folder in ("dev", "proc", "sys", "etc", "mine"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(_of(1000 if folder == "mine" else 0)(member))
    return output.getvalue()


def _of(owner: int) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    def change(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = owner
        return member

    return change


def test_moving_twice_is_moving_once(tmp_path: Path) -> None:
    """And moving back gives what there was, of files that no path can name too."""
    make_odd(tmp_path)
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=place)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    before = owners(tmp_path)
    for _ in range(2):
        shift.move_tree(tmp_path, shift.to_host(IDS))
        assert owners(tmp_path) == [
            (name, *(each + IDS.base if each < IDS.size else each for each in ids), mode)
            for name, *ids, mode in before
        ]
    shift.move_tree(tmp_path, shift.to_container(IDS))
    assert owners(tmp_path) == before
    assert os.getxattr(tmp_path / "odd/capable", "security.capability") == NET_RAW
    assert os.getxattr(tmp_path / "odd/listed", "system.posix_acl_access") == ACL
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def owners(tree: Path) -> list[tuple[str, int, int, int]]:
    """Owner and mode of what there is in a tree but its deepest."""
    return [
        (str(path), path.lstat().st_uid, path.lstat().st_gid, path.lstat().st_mode)
        for top in ("odd", "etc", "var")
        for path in sorted((tree / top).rglob("*"))
    ]
