"""Archives that try to get out, or to fill the disk."""

import contextlib
import io
import os
import random
import stat
import tarfile
from pathlib import Path

import pytest

from shipway.runtime.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive
from shipway.runtime.images.unpack import UnpackLimits, unpack_tar

LIMITS = UnpackLimits(size=10_000, entries=50, depth=10)


def member(name: str, kind: bytes = b"0", link: str = "", size: int = 3, mode: int = 0o644):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    made.size = size if kind == b"0" else 0
    return made


def unpack(dest: Path, *members: tarfile.TarInfo, **options: object) -> int:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(b"x" * each.size))
    buffer.seek(0)
    return unpack_tar(buffer, dest, LIMITS, **options)  # type: ignore[arg-type]


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    (tmp_path / "dest").mkdir()
    (tmp_path / "outside").write_text("mine")
    return tmp_path / "dest"


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("a/../../outside")],
        [member("/etc/evil")],
        [member("a", b"2", ".."), member("a/outside")],
        [member("a", b"2", "/"), member("a/tmp/evil")],
        [member("a", b"2", "../outside"), member("a")],
        [member("a", b"1", "../outside")],
        [member("a", b"1", "/etc/passwd")],
        [member("l", b"2", ".."), member("a", b"1", "l/outside")],
        [member("a", b"1", "b")],
        [member("d", b"5"), member("a", b"1", "d")],
        [member("a", b"3")],
        [member("a", b"4")],
        [member("a", b"6")],
        [member("a"), member("a")],
        [member("d", b"5"), member("d")],
        [member("a"), member("a", b"5")],
        [member("a"), member("a/b")],
        [member(".wh.a")],
        [member(".wh.d/a")],
        [member("n" * 300)],
        [member(".")],
        [member("p" * 200 + "/" + "q" * 4000)],
    ],
    ids=lambda members: " then ".join(m.name[:12] + m.type.decode() for m in members),
)
def test_refused(dest: Path, members: list[tarfile.TarInfo]) -> None:
    """Every way out of the destination is refused, and nothing outside it changes."""
    with pytest.raises(UnsafeArchive):
        unpack(dest, *members)
    assert sorted(p.name for p in dest.parent.iterdir()) == ["dest", "outside"]
    assert (dest.parent / "outside").read_text() == "mine"
    assert os.stat(dest.parent / "outside").st_nlink == 1


@pytest.mark.parametrize(
    "members",
    [
        [member("a", size=6000), member("b", size=6000)],
        [member(f"f{n}") for n in range(60)],
        [member("d/" * 11 + "f")],
    ],
    ids=["size", "entries", "depth"],
)
def test_limits(dest: Path, members: list[tarfile.TarInfo]) -> None:
    """An archive over a limit is refused."""
    with pytest.raises(ArchiveTooLarge):
        unpack(dest, *members)


def test_declared_size_counts_before_it_is_written(dest: Path) -> None:
    """A file that says it has a terabyte is refused at once, not when the disk is full."""
    header = member("bomb", size=0)
    header.size = 1 << 40
    stream = io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
    with pytest.raises(ArchiveTooLarge):
        unpack_tar(stream, dest, LIMITS)
    assert not list(dest.iterdir())


def test_source(dest: Path) -> None:
    """An app's source gets one owner, plain modes without set-id bits, and one fixed time."""
    unpack(
        dest,
        member("bin/run", mode=0o6777),
        member("a", mode=0o600),
        member("l", b"2", "/etc/passwd"),
        uid=1000,
        gid=1000,
    )
    run, a, link = (os.lstat(dest / name) for name in ("bin/run", "a", "l"))
    assert [stat.S_IMODE(s.st_mode) for s in (run, a)] == [0o755, 0o644]
    assert {(s.st_uid, s.st_gid, int(s.st_mtime)) for s in (run, a, link)} == {
        (1000, 1000, 315532801)
    }
    assert os.stat(dest / "bin").st_uid == 1000
    assert os.readlink(dest / "l") == "/etc/passwd"


def test_layer(dest: Path) -> None:
    """An image layer keeps owners, modes and times, and its whiteouts become overlayfs's."""
    deep = member("d/", b"5", mode=0o1777)
    deep.mtime = 5
    tool = member("d/tool", mode=0o4755)
    tool.uid, tool.mtime = 33, 7
    unpack(dest, deep, tool, member("d/.wh.gone", size=0), member("o/.wh..wh..opq"), layer=True)
    tool_status, folder = os.stat(dest / "d/tool"), os.stat(dest / "d")
    assert (tool_status.st_mode & 0o7777, tool_status.st_uid) == (0o4755, 33)
    assert (folder.st_mode & 0o7777, folder.st_mtime, tool_status.st_mtime) == (0o1777, 5, 7)
    gone = os.stat(dest / "d/gone")
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(dest / "o", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_whiteout_never_hides_its_own_layer(dest: Path, whiteout_first: bool) -> None:
    """A folder that a layer both hides and has stays, and hides what is below it."""
    members = [member(".wh.d"), member("d/", b"5")]
    unpack(dest, *(members if whiteout_first else members[::-1]), member("d/f"), layer=True)
    assert (dest / "d/f").exists()
    assert os.getxattr(dest / "d", "trusted.overlay.opaque") == b"y"


def test_whiteout_before_an_unmentioned_folder(dest: Path) -> None:
    """A folder that only follows from a file below it wins over a whiteout of its name as well."""
    unpack(dest, member("p/.wh.d"), member("p/d/f"), layer=True)
    assert (dest / "p/d/f").exists()
    assert os.getxattr(dest / "p/d", "trusted.overlay.opaque") == b"y"


def test_whiteout_alone(dest: Path) -> None:
    """A whiteout makes the folders above it."""
    unpack(dest, member("a/b/.wh.c"), layer=True)
    assert stat.S_ISCHR(os.stat(dest / "a/b/c").st_mode)
    assert stat.S_IMODE(os.stat(dest / "a/b").st_mode) == 0o755


def test_whiteout_twice(dest: Path) -> None:
    """The same name hidden twice is two entries of one name."""
    with pytest.raises(UnsafeArchive, match="hides a twice"):
        unpack(dest, member(".wh.a"), member(".wh.a"), layer=True)


def test_groups_are_the_archive_s(dest: Path) -> None:
    """A folder that gives its group on does not give it to files that have another."""
    folder = member("d", b"5", mode=0o2755)
    folder.gid = 33
    unpack(dest, folder, member("d/f"), member("d/l", b"2", "f"), layer=True)
    assert [os.lstat(dest / name).st_gid for name in ("d", "d/f", "d/l")] == [33, 0, 0]


def test_devices_below_dev(dest: Path) -> None:
    """A layer's nodes below /dev are passed over, others refused, and a source's in any place."""
    unpack(dest, member("dev/null", b"3"), member("dev/x", b"4"), layer=True)
    assert not (dest / "dev/null").exists()
    for name, layer in (("etc/null", True), ("dev/null", False)):
        with pytest.raises(UnsafeArchive, match="device"):
            unpack(dest, member(name, b"3"), layer=layer)


@pytest.mark.parametrize("name", [".wh.", ".wh...", ".wh.."])
def test_whiteout_of_nothing(dest: Path, name: str) -> None:
    """A whiteout without a name of its own to hide is refused."""
    with pytest.raises(UnsafeArchive):
        unpack(dest, member(name), layer=True)


@pytest.mark.parametrize("seed", range(300))
def test_noise_never_gets_out(dest: Path, seed: int) -> None:
    """Archives with random damage are read or refused as such, and never write outside."""
    rng = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice([0, 1, 2])) as tar:
        for made in (member("d/a" * 40), member("l", b"2", "d"), member("h", b"1", "l")):
            made.pax_headers = {"SCHILY.xattr.user.x": "y", "path": "é" * 60}
            tar.addfile(made, io.BytesIO(b"x" * made.size))
    data = bytearray(buffer.getvalue())
    at = rng.randrange(len(data) // 512) * 512
    data[at + rng.randrange(512)] = rng.choice(b"\0\1/.079\x7f\x80\xff")
    if rng.random() < 0.7:  # most damage would end at the checksum
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    with contextlib.suppress(InvalidArchive):
        unpack_tar(io.BytesIO(data), dest, LIMITS, layer=rng.random() < 0.5)
    assert sorted(p.name for p in dest.parent.iterdir()) == ["dest", "outside"]


def test_odd_owner(dest: Path) -> None:
    """An owner that no file can have is an error of the archive, not a crash."""
    odd = member("a")
    odd.uid = 1 << 40
    with pytest.raises(InvalidArchive):
        unpack(dest, odd)
