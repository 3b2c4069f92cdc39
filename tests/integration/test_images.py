"""The image store on a real disk, and what skopeo and umoci make of it."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.runtime.errors import (
    DamagedBlob,
    InvalidReference,
    InvalidTree,
    NoSuchImage,
    NoSuchLayer,
)
from shipway.runtime.images.store import ImageConfig, Stores
from support import scratch

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
CONFIG = ImageConfig(
    env={"PATH": "/bin", "LANG": "C.UTF-8"},
    entrypoint=("/bin/run",),
    working_dir="/workspace",
    user="1000:1000",
    labels={"b": "2", "a": "1"},
)


@pytest.fixture
def root() -> Iterator[Path]:
    with scratch() as path:
        yield path


@pytest.fixture
def stores(root: Path) -> Stores:
    return Stores.open(root)


def make_tree(root: Path, name: str = "tree", **files: str) -> Path:
    """A folder with those files; `__` in a name is a slash."""
    tree = root / name
    tree.mkdir()
    for key, text in files.items():
        path = tree / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree


def make_odd_tree(root: Path, backwards: bool = False) -> Path:
    """One of everything that a layer can hold."""
    tree = root / f"odd{time.time_ns()}"
    tree.mkdir()
    names = ["a", "b/c", "b/ünï", "z" * 200, "e"]
    for name in reversed(names) if backwards else names:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(name if name != "e" else "")
    os.link(tree / "a", tree / "b/hard")
    os.symlink("../a", tree / "b/soft")
    os.symlink("x" * 300, tree / "dangling")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    os.chown(tree / "b/c", 1000, 3_000_000)
    os.chmod(tree / "b/c", 0o4750)
    os.setxattr(tree / "a", "user.note", b"\0binary\n")
    os.setxattr(tree / "b/c", "security.capability", CAPABILITY)
    os.mknod(tree / "b/gone", stat.S_IFCHR, os.makedev(0, 0))
    (tree / "opaque").mkdir(mode=0o1777)
    os.setxattr(tree / "opaque", "trusted.overlay.opaque", b"y")
    return tree


def snapshot(tree: Path) -> dict[str, object]:
    """All that a layer keeps of a tree."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(tree):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[os.path.relpath(path, tree)] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0,
                status.st_mtime_ns,
                os.readlink(path) if stat.S_ISLNK(status.st_mode) else "",
                Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else b"",
                {
                    key: os.getxattr(path, key, follow_symlinks=False)
                    for key in os.listxattr(path, follow_symlinks=False)
                },
            )
    return found


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blobs_of(root: Path) -> list[Path]:
    return sorted((root / "images/blobs/sha256").iterdir())


def test_write_and_read_back(root: Path, stores: Stores) -> None:
    """An image that was written is found by tag and by digest, with its config and size."""
    layer = stores.layers.commit(make_tree(root, a="1"))
    made = stores.images.write([layer], CONFIG, "app:v1")
    assert stores.images.get("app:v1") == made
    assert stores.images.get(made.digest).config == CONFIG
    assert made.size == sum(path.stat().st_size for path in blobs_of(root))
    assert Stores.open(root).images.refs() == {"app:v1": made.digest}


def test_identical_input_gives_identical_digests(root: Path, stores: Stores) -> None:
    """Trees made in another order and at another time, in another store, give the same image."""
    other = Stores.open(root / "other")
    first = stores.layers.commit(make_odd_tree(root))
    time.sleep(0.01)
    second = other.layers.commit(make_odd_tree(root, backwards=True))
    assert first == second
    config = ImageConfig(**{**config_fields(), "labels": {"a": "1", "b": "2"}})
    assert (
        stores.images.write([first], CONFIG, "a").digest
        == other.images.write([second], config, "b").digest
    )


def config_fields() -> dict[str, object]:
    return {name: getattr(CONFIG, name) for name in ImageConfig.__slots__}


def test_layer_survives_the_loss_of_its_tree(root: Path, stores: Stores) -> None:
    """A tree made again from its blob is the tree that was committed, whatever it held."""
    tree = make_odd_tree(root)
    layer = stores.layers.commit(tree)
    assert not tree.exists()
    path = stores.layers.path(layer.diff_id)
    before = snapshot(path)
    assert {entry[4] for entry in before.values()} == {315532801 * 10**9}  # type: ignore[index]
    assert before["a"][3] == 2  # type: ignore[index]
    run("rm", "-r", path)
    assert snapshot(stores.layers.path(layer.diff_id)) == before
    stores.layers.verify(layer.diff_id)


def test_skopeo_accepts_it(root: Path, stores: Stores) -> None:
    """Skopeo reads the image and copies it, checking every digest, to its own format and a tar."""
    layers = [
        stores.layers.commit(make_odd_tree(root)),
        stores.layers.commit(make_tree(root, f="1")),
    ]
    made = stores.images.write(layers, CONFIG, "team/app:v1")
    source = f"oci:{root}/images:team/app:v1"
    seen = json.loads(run("skopeo", "inspect", source))
    assert seen["Digest"] == made.digest
    assert seen["Layers"] == [layer.digest for layer in layers]
    assert seen["Labels"] == {"a": "1", "b": "2"}
    run("skopeo", "--insecure-policy", "copy", source, f"dir:{root}/copy")
    run("skopeo", "--insecure-policy", "copy", source, f"docker-archive:{root}/a.tar:app:v1")
    back = f"docker-archive:{root}/a.tar"
    run("skopeo", "--insecure-policy", "copy", back, f"oci:{root}/back:x")
    seen = json.loads(run("skopeo", "inspect", f"oci:{root}/back:x"))
    assert seen["Env"] == ["LANG=C.UTF-8", "PATH=/bin"]


def test_umoci_unpacks_what_we_see(root: Path, stores: Stores) -> None:
    """Umoci's root file system is the one an overlay of our layers shows, deletions included."""
    base = make_tree(root, "base", keep="1", gone="2", d__old="3", d__same="4", r__x="5")
    os.chown(base / "keep", 1000, 1000)
    lower = stores.layers.commit(base)
    with stores.layers.staged_tree() as upper:
        script = (
            'mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" o "$4"; cd "$4"; rm gone; '
            "rm -r d r; mkdir d; echo new > d/new; echo r > r; chmod 600 keep; ln keep also; "
            'cp -a "$4" "$5"'
        )
        for name in ("work", "merged"):
            (upper.parent / name).mkdir()
        folders = [upper, upper.parent / "work", upper.parent / "merged", root / "seen"]
        mine = stores.layers.path(lower.diff_id)
        run("unshare", "--mount", "sh", "-euc", script, "x", mine, *folders)
        top = stores.layers.commit(upper)
    stores.layers.verify(top.diff_id)
    stores.images.write([lower, top], CONFIG, "app:v1")
    run("umoci", "unpack", "--image", f"{root}/images:app:v1", root / "bundle")
    theirs = {
        name: (entry[:4], entry[5:7])  # type: ignore[index]
        for name, entry in snapshot(root / "bundle/rootfs").items()
    }
    ours = {
        name: (entry[:4], entry[5:7])  # type: ignore[index]
        for name, entry in snapshot(root / "seen").items()
    }
    assert theirs == ours
    assert set(theirs) == {"keep", "also", "d", "d/new", "r"}


def test_same_tree_is_stored_once(root: Path, stores: Stores) -> None:
    """A second commit of the same content adds nothing, and takes its folder away as well."""
    first = stores.layers.commit(make_tree(root, "one", a="1"))
    second = stores.layers.commit(make_tree(root, "two", a="1"))
    assert first == second
    assert len(blobs_of(root)) == 1
    assert not (root / "two").exists()


def test_files_shared_with_a_cache_are_copied(root: Path, stores: Stores) -> None:
    """A file with a hard link outside the tree is cut loose: later writes there do not show."""
    cache = root / "cached"
    cache.write_text("good")
    tree = make_tree(root, b="1")
    os.link(cache, tree / "a")
    os.link(cache, tree / "c")
    layer = stores.layers.commit(tree)
    cache.write_text("evil")
    path = stores.layers.path(layer.diff_id)
    assert (path / "a").read_text() == (path / "c").read_text() == "good"
    assert (path / "a").stat().st_ino == (path / "c").stat().st_ino
    stores.layers.verify(layer.diff_id)


def test_sockets_are_left_out(root: Path, stores: Stores) -> None:
    """A socket that a build left is no part of the layer."""
    tree = make_tree(root, a="1")
    os.mknod(tree / "s", stat.S_IFSOCK)
    layer = stores.layers.commit(tree)
    assert os.listdir(stores.layers.path(layer.diff_id)) == ["a"]
    stores.layers.verify(layer.diff_id)


def test_trees_that_no_layer_can_hold(root: Path, stores: Stores) -> None:
    """Devices, names that mean deletion, half copies and other disks are refused by name."""
    device = make_tree(root, "device")
    os.mknod(device / "null", stat.S_IFCHR, os.makedev(1, 3))
    half = make_tree(root, "half", a="1")
    os.setxattr(half / "a", "trusted.overlay.metacopy", b"")
    for tree, why in (
        (device, "null is a device"),
        (make_tree(root, "wh", **{".wh.a": "1"}), "names that begin with .wh."),
        (half, "left its content in a lower layer"),
        (root / "missing", "is no folder"),
        (Path("/proc"), "is no folder on the file system"),
    ):
        with pytest.raises(InvalidTree, match=why):
            stores.layers.commit(tree)
    assert blobs_of(root) == []
    assert os.listdir(root / "images/.staging") == []


@pytest.mark.parametrize("ref", ["", "a b", "ü", "a\n", "sha256:" + "0" * 64])
def test_odd_references(stores: Stores, ref: str) -> None:
    """A reference that OCI does not allow is refused, with what would be right."""
    with pytest.raises(InvalidReference, match="letters, digits"):
        stores.images.write([], CONFIG, ref)


def test_unknown_images_and_layers(stores: Stores) -> None:
    """What is not there is said by name; a blob that is no manifest is no image."""
    nothing = "sha256:" + "0" * 64
    for name in ("nothing", nothing):
        with pytest.raises(NoSuchImage, match=name):
            stores.images.get(name)
    with pytest.raises(NoSuchImage):
        stores.images.untag("nothing")
    with pytest.raises(NoSuchImage):
        stores.images.tag("a", nothing)
    with pytest.raises(NoSuchLayer, match=nothing):
        stores.layers.path(nothing)
    with pytest.raises(InvalidReference):
        stores.layers.path("../../etc")


def test_tags(root: Path, stores: Stores) -> None:
    """A tag moves, a second one may lead to the same image, and removing one leaves the image."""
    old = stores.images.write([], CONFIG, "app")
    layer = stores.layers.commit(make_tree(root, a="1"))
    new = stores.images.write([layer], CONFIG, "app")
    stores.images.tag("other", new.digest)
    assert stores.images.refs() == {"app": new.digest, "other": new.digest}
    stores.images.untag("app")
    assert stores.images.refs() == {"other": new.digest}
    assert stores.images.get(old.digest).layers == ()


def test_prune(root: Path, stores: Stores) -> None:
    """Prune removes what nobody names, and nothing that is tagged, in use, or young."""
    layers = [stores.layers.commit(make_tree(root, f"t{n}", a=str(n))) for n in range(4)]
    tagged = stores.images.write([layers[0], layers[1]], CONFIG, "tagged")
    in_use = stores.images.write([layers[0], layers[2]], CONFIG, None)
    gone = stores.images.write([layers[0], layers[3]], CONFIG, None)
    assert stores.images.prune([]) == 0
    assert stores.images.prune([in_use.digest, "sha256:" + "0" * 64], grace=-1) > 0
    for image in (tagged, in_use):
        stores.images.verify(image.digest)
    with pytest.raises(NoSuchImage):
        stores.images.get(gone.digest)
    assert not stores.layers.has(layers[3].diff_id)
    kept = {layer.diff_id.removeprefix("sha256:") for layer in layers[:3]}
    assert {p.name for p in (root / "layers").iterdir() if p.name[0] != "."} == kept
    assert os.listdir(root / "layers/.staging") == []
    assert stores.images.prune([in_use.digest], grace=-1) == 0


def test_prune_leaves_a_layer_that_was_just_wanted_again(root: Path, stores: Stores) -> None:
    """An old layer that a build has just made again is young again."""
    layer = stores.layers.commit(make_tree(root, "one", a="1"))
    time.sleep(0.3)
    stores.layers.commit(make_tree(root, "two", a="1"))
    stores.images.prune([], grace=0.2)
    stores.layers.verify(layer.diff_id)


def test_prune_leaves_a_layer_that_an_image_was_just_made_of(root: Path, stores: Stores) -> None:
    """An old layer that a new image reuses is young again, before the image has a name."""
    layer = stores.layers.commit(make_tree(root, "one", a="1"))
    time.sleep(0.3)
    image = stores.images.write([layer], CONFIG, None)
    stores.images.prune([], grace=0.2)
    stores.images.verify(image.digest)


def test_prune_stops_at_a_damaged_image_in_use(root: Path, stores: Stores) -> None:
    """When it cannot be known what is in use, nothing is removed."""
    layer = stores.layers.commit(make_tree(root, a="1"))
    image = stores.images.write([layer], CONFIG, None)
    flip(root, image.digest)
    before = blobs_of(root)
    with pytest.raises(DamagedBlob, match=image.digest):
        stores.images.prune([image.digest], grace=-1)
    assert blobs_of(root) == before


def flip(root: Path, digest: str) -> None:
    """Flip one bit of a blob."""
    path = root / "images/blobs/sha256" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_found_and_named(root: Path, stores: Stores) -> None:
    """A flipped bit, a lost blob and a changed tree are each found, and the digest is told."""
    layer = stores.layers.commit(make_tree(root, a="1"))
    image = stores.images.write([layer], CONFIG, "app")
    stores.images.verify("app")
    path = stores.layers.path(layer.diff_id)
    (path / "a").write_text("2")
    with pytest.raises(DamagedBlob, match=rf"{layer.diff_id}.*{path.name} does not match"):
        stores.images.verify("app")
    stores.layers.repair(layer.diff_id)
    stores.images.verify("app")
    flip(root, layer.digest)
    with pytest.raises(DamagedBlob, match=rf"{layer.diff_id}.*does not match"):
        stores.images.verify("app")
    run("rm", "-r", path)
    with pytest.raises(DamagedBlob, match=layer.diff_id):
        stores.layers.path(layer.diff_id)
    assert not path.exists()
    stores.layers.blobs.path(layer.digest).unlink()
    with pytest.raises(DamagedBlob, match="is missing"):
        stores.images.verify("app")
    flip(root, image.digest)
    with pytest.raises(DamagedBlob, match=image.digest):
        stores.images.get("app")


def test_committing_again_heals(root: Path, stores: Stores) -> None:
    """A blob cut short by a full disk or a crash is replaced when the same layer comes again."""
    layer = stores.layers.commit(make_tree(root, "one", a="1"))
    blob = stores.layers.blobs.path(layer.digest)
    os.truncate(blob, 100)
    stores.layers.commit(make_tree(root, "two", a="1"))
    stores.layers.verify(layer.diff_id)


def test_tree_not_synced_before_a_crash_of_the_machine(root: Path, stores: Stores) -> None:
    """A tree written just before the machine went down is made again from its blob."""
    layer = stores.layers.commit(make_tree(root, a="1"))
    path = stores.layers.path(layer.diff_id)
    mark = root / "layers/.unsettled" / path.name
    assert mark.exists()
    (path / "a").write_text("")  # as a crash leaves files that were not written yet
    mark.write_text("another boot")
    assert (stores.layers.path(layer.diff_id) / "a").read_text() == "1"
    stores.layers.settle()
    assert not mark.exists()
    stores.layers.verify(layer.diff_id)


def test_full_disk(root: Path) -> None:
    """A full disk is a clear error that leaves the store as it was."""
    script = f"""
import os, sys
from pathlib import Path
from shipway.runtime.images.store import Stores
from shipway.runtime.errors import StoreFull
stores = Stores.open(Path("{root}/disk"))
tree = Path("{root}/disk/tree")
tree.mkdir()
(tree / "big").write_bytes(os.urandom(2_500_000))
try:
    stores.layers.commit(tree)
except StoreFull as error:
    assert os.listdir("{root}/disk/images/.staging") == []
    assert os.listdir("{root}/disk/images/blobs/sha256") == []
    print(error)
"""
    (root / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=4m tmpfs "$1"; shift; exec "$@"'
    told = run("unshare", "--mount", "sh", "-euc", mount, "x", root / "disk", sys.executable, "-c", script)  # fmt: skip
    assert told.startswith("no space is left on the disk of")


WRITER = """
import sys
from pathlib import Path
from shipway.runtime.images.store import ImageConfig, Stores
root, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
stores = Stores.open(root)
for n in range(rounds):
    with stores.layers.staged_tree() as tree:
        (tree / "n").write_text(str(n))
        (tree / "fill").write_bytes(b"x" * 300_000)
        layer = stores.layers.commit(tree)
    with stores.layers.staged_tree() as tree:
        (tree / "me").write_text(me + str(n))
        own = stores.layers.commit(tree)
    stores.images.write([layer, own], ImageConfig(), f"{me}:{n}")
    print(n, flush=True)
"""


def writer(root: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root), name, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_at_once(root: Path, stores: Stores) -> None:
    """Processes that write the same and other layers at once lose nothing, prune beside them."""
    writers = [writer(root, name, 15) for name in ("a", "b", "c")]
    while any(process.poll() is None for process in writers):
        stores.images.prune([])
        time.sleep(0.02)
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    refs = stores.images.refs()
    assert set(refs) == {f"{name}:{n}" for name in "abc" for n in range(15)}
    for ref in refs:
        stores.images.verify(ref)


def test_kill_at_any_moment(root: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of a writer leaves a store where all that was confirmed is whole."""
    for delay in range(12):
        process = writer(root, f"w{delay}", 1000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay * 0.0031)
        process.send_signal(signal.SIGKILL)
        confirmed = len(process.communicate()[0].split())
        refs = stores.images.refs()
        for n in range(confirmed + 1):
            assert f"w{delay}:{n}" in refs
    for ref in stores.images.refs():
        stores.images.verify(ref)
    monkeypatch.setattr("shipway.runtime.images.blobs.STALE", -1.0)
    stores.images.prune([], grace=-1)
    assert os.listdir(root / "images/.staging") == os.listdir(root / "layers/.staging") == []


def test_sweep_leaves_what_is_locked(
    root: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in use is not swept, however old it is."""
    monkeypatch.setattr("shipway.runtime.images.blobs.STALE", -1.0)
    with stores.layers.staged_tree() as tree, stores.layers.blobs.staged() as file:
        stores.images.prune([], grace=-1)
        assert tree.exists()
        assert file.exists()


def test_other_disk_is_an_error_before_any_work(stores: Stores) -> None:
    """A folder on another file system cannot be taken over, and stays."""
    shm = Path("/dev/shm") / f"sw-{os.getpid()}"
    shm.mkdir()
    try:
        with pytest.raises(InvalidTree, match="file system"):
            stores.layers.commit(shm)
        assert shm.exists()
    finally:
        shm.rmdir()
