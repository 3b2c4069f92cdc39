"""Images as archives: every form that there is, taken in and given out again; and what is refused."""

import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagelab import DOCKER, OCI, Foreign, digest_of, encoded, layout, make, run, tar_of, zstd
from shipway.runtime.errors import (
    ArchiveTooLarge,
    DamagedBlob,
    ImageInUse,
    InvalidArchive,
    InvalidImage,
    NoSuchPlatform,
    UnsafeArchive,
)
from shipway.runtime.images import archives, listing, removing, rootfs
from shipway.runtime.images.intake import intake
from shipway.runtime.images.store import Stores
from shipway.runtime.images.unpack import UnpackLimits
from support import scratch

LOWER = tar_of({"etc": None, "etc/a": b"1", "etc/b": b"2", "d": None, "d/old": b"3"}, mtime=5)
UPPER = tar_of({"etc/.wh.b": b"", "d/.wh..wh..opq": b"", "d/new": b"4"}, mtime=6)
REF = "org.opencontainers.image.ref.name"


@pytest.fixture
def root() -> Iterator[Path]:
    with scratch() as path:
        yield path


@pytest.fixture
def stores(root: Path) -> Stores:
    return Stores.open(root)


def load(stores: Stores, data: bytes) -> list[archives.Loaded]:
    return archives.load(stores.images, io.BytesIO(data))


def tagged(image: Foreign, ref: str, **more: Any) -> dict[str, Any]:
    return image.descriptor(annotations={REF: ref}, **more)


def leftovers(root: Path) -> list[str]:
    """Blobs, trees and unfinished things in a store."""
    return [
        *os.listdir(root / "images/blobs/sha256"),
        *os.listdir(root / "images/.staging"),
        *(name for name in os.listdir(root / "layers") if name[0] != "."),
        *os.listdir(root / "layers/.staging"),
        *os.listdir(root / "layers/.packed"),
    ]


def docker_save(image: Foreign, *tags: str, links: bool = False) -> bytes:
    """What Docker wrote from 1.10 to 24; with `links`, a layer that is there twice is a link."""
    files: dict[str, bytes | str | None] = {f"{image.digest[7:]}.json": image.config}
    names = []
    for number, layer in enumerate(image.layers):
        files[f"l{number}"] = None
        files[f"l{number}/VERSION"] = b"1.0"
        again = image.layers.index(layer)
        files[f"l{number}/layer.tar"] = (
            f"../l{again}/layer.tar" if links and again < number else layer
        )
        names.append(f"l{number}/layer.tar")
    entry = {"Config": f"{image.digest[7:]}.json", "RepoTags": list(tags) or None, "Layers": names}
    files["manifest.json"] = json.dumps([entry]).encode()
    return tar_of(files)


@pytest.mark.parametrize("kind", [OCI, DOCKER])
@pytest.mark.parametrize("how", ["", "gzip", "zstd"])
def test_layers_are_kept_as_they_came(root: Path, stores: Stores, kind: str, how: str) -> None:
    """Blobs, manifest and config keep their bytes, whatever they are packed by; trees are the same."""
    image = Foreign([(LOWER, how), (UPPER, how)], kind, Labels={"a": "b"}, User="app")
    [found] = load(stores, layout([tagged(image, "app:v1")], image.blobs))
    assert found.refs == ("app:v1",)
    assert (found.image.digest, found.image.id) == (image.digest, digest_of(image.config))
    assert found.image.config.labels == {"a": "b"}
    for digest, blob in image.blobs.items():
        assert stores.layers.blobs.path(digest).read_bytes() == blob
    top, bottom = stores.images.trees(found.image)
    assert (bottom / "etc/b").read_text() == "2"
    assert os.stat(top / "etc/b").st_rdev == 0
    assert os.getxattr(top / "d", "trusted.overlay.opaque") == b"y"
    assert int(os.stat(top / "d/new").st_mtime) == 6
    stores.images.verify("app:v1")


def test_a_layer_is_unpacked_once(root: Path, stores: Stores) -> None:
    """The same content packed in other ways is one tree, which all images share; each blob is kept."""
    for number, how in enumerate(["gzip", "zstd", ""]):
        image = Foreign([(LOWER, how)], Labels={"n": str(number)})
        load(stores, layout([tagged(image, f"app:{number}")], image.blobs))
    assert len([name for name in os.listdir(root / "layers") if name[0] != "."]) == 1
    trees = [stores.images.trees(stores.images.get(f"app:{n}")) for n in range(3)]
    assert trees[0] == trees[1] == trees[2]
    removing.remove(stores.images, "app:2")
    run("rm", "-r", trees[0][0])
    assert (stores.images.trees(stores.images.get("app:0"))[0] / "etc/a").read_text() == "1"


def test_multi_platform_and_nested_indexes(stores: Stores) -> None:
    """Of an index in an index the image for this machine comes in, and only its blobs."""
    mine, other = Foreign([(LOWER, "gzip")]), Foreign([(UPPER, "gzip")])
    amd = {"os": "linux", "architecture": "amd64"}
    arm = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    none = {"os": "unknown", "architecture": "unknown"}
    inner = encoded(
        {
            "schemaVersion": 2,
            "manifests": [other.descriptor(platform=arm), mine.descriptor(platform=amd)],
        }
    )
    entry = {"mediaType": f"{OCI}.index.v1+json", "digest": digest_of(inner), "size": len(inner)}
    outer = encoded({"schemaVersion": 2, "manifests": [other.descriptor(platform=none), entry]})
    top = {**entry, "digest": digest_of(outer), "size": len(outer), "annotations": {REF: "multi:1"}}
    blobs = {digest_of(inner): inner, digest_of(outer): outer}
    [found] = load(stores, layout([top], blobs, mine.blobs, other.blobs))
    assert found.image.digest == mine.digest
    assert not stores.layers.blobs.path(digest_of(other.layers[0])).exists()


def test_no_platform_for_this_machine(root: Path, stores: Stores) -> None:
    """An image for other machines only is refused with what there is, and nothing stays."""
    image = Foreign([(LOWER, "")])
    entry = image.descriptor(platform={"os": "linux", "architecture": "s390x"})
    with pytest.raises(NoSuchPlatform, match="for linux/s390x"):
        load(stores, layout([entry], image.blobs))
    assert leftovers(root) == []


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstd])
def test_docker_save(stores: Stores, pack: Any) -> None:
    """What Docker wrote from 1.10 on is taken in, whole or packed, with layers that are links."""
    image = Foreign([(LOWER, ""), (UPPER, ""), (LOWER, "")])
    [found] = load(stores, pack(docker_save(image, "app:v1", "other/app:v2", links=True)))
    assert found.refs == ("app:v1", "other/app:v2")
    assert found.image.id == digest_of(image.config)
    assert [layer.diff_id for layer in found.image.layers] == image.diff_ids
    assert stores.images.refs() == dict.fromkeys(found.refs, found.image.digest)


def test_docker_save_of_today(stores: Stores) -> None:
    """Docker 25 and later write a layout with a manifest.json beside it, which has the names."""
    image = Foreign([(LOWER, "gzip")])
    path = f"blobs/sha256/{digest_of(image.config)[7:]}"
    layer = f"blobs/sha256/{digest_of(image.layers[0])[7:]}"
    notes = {REF: "v1", "io.containerd.image.name": "docker.io/library/app:v1"}
    plain = layout([image.descriptor(annotations=notes)], image.blobs)
    manifest = json.dumps([{"Config": path, "RepoTags": ["app:v1"], "Layers": [layer]}]).encode()
    buffer = io.BytesIO(plain)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
    [found] = load(stores, buffer.getvalue())
    assert found.refs == ("app:v1",)
    assert found.image.digest == image.digest


def test_docker_save_of_long_ago(stores: Stores) -> None:
    """What Docker wrote before 1.10 has a JSON for each layer and no manifest."""
    v1 = {
        "base/json": {"id": "base", "created": "2014-02-04T00:00:00Z", "os": "linux"},
        "top/json": {
            "id": "top",
            "parent": "base",
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
            "container_config": {"Cmd": ["/bin/sh", "-c", "make"]},
        },
        "repositories": {"old": {"0.8": "top"}},
    }
    files: dict[str, Any] = {name: json.dumps(value).encode() for name, value in v1.items()}
    files |= {"base/layer.tar": LOWER, "top/layer.tar": UPPER}
    [found] = load(stores, tar_of(files))
    assert found.refs == ("old:0.8",)
    assert found.image.config.env == {"A": "b"}
    assert [layer.diff_id for layer in found.image.layers] == [digest_of(LOWER), digest_of(UPPER)]
    steps = listing.history(stores.images, found.image)
    assert [step.created_by for step in steps] == ["/bin/sh -c make", ""]


def test_without_a_name(stores: Stores) -> None:
    """An image without a name is taken in, listed, found by the beginning of its id, and pruned."""
    image = Foreign([(LOWER, "")])
    [found] = load(stores, layout([image.descriptor()], image.blobs))
    assert found.refs == ()
    [listed] = listing.listed(stores.images)
    assert (listed.ref, listed.id) == (None, digest_of(image.config))
    assert stores.images.get(listed.id[7:19]).digest == image.digest
    assert removing.prune(stores.images).deleted == (listed.id,)
    assert listing.listed(stores.images) == []


def damaged(image: Foreign, which: int) -> bytes:
    blobs = dict(image.blobs)
    name = list(blobs)[which]
    blobs[name] = blobs[name][:-1] + b"~"
    return layout([tagged(image, "bad:1")], blobs)


GOOD = Foreign([(LOWER, "gzip"), (UPPER, "gzip")])


def lying() -> bytes:
    """An image whose config says that its layers hold something else."""
    image = Foreign([(LOWER, "gzip"), (UPPER, "gzip")])
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"].reverse()
    data = encoded(config)
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": digest_of(data), "size": len(data)}
    whole = encoded(manifest)
    blobs = {**image.blobs, digest_of(data): data, digest_of(whole): whole}
    return layout([{"mediaType": "", "digest": digest_of(whole), "size": len(whole)}], blobs)


def holding(*layers: bytes) -> bytes:
    image = Foreign([(LOWER, "gzip"), *((layer, "gzip") for layer in layers)])
    return layout([tagged(image, "bad:1")], image.blobs)


def hard(link: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = tarfile.LNKTYPE, link
        tar.addfile(member)
    return buffer.getvalue()


BAD: dict[str, tuple[bytes, type[Exception], str]] = {
    "empty": (b"", InvalidArchive, "holds no image"),
    "no tar": (b"x" * 2000, InvalidArchive, "checksum|malformed"),
    "a root file system": (LOWER, InvalidArchive, "taken by `import`"),
    "cut short": (layout([tagged(GOOD, "a")], GOOD.blobs)[:3000], InvalidArchive, "cut short"),
    "cut short, packed": (gzip.compress(LOWER)[:-9], InvalidArchive, "gzip data is cut short"),
    "a layer damaged": (damaged(GOOD, 1), InvalidArchive, "does not match its digest"),
    "a config damaged": (damaged(GOOD, 2), InvalidArchive, "does not match its digest"),
    "a manifest damaged": (damaged(GOOD, 3), InvalidArchive, "does not match its digest"),
    "a blob missing": (
        layout([tagged(GOOD, "a")], {GOOD.digest: GOOD.manifest}),
        InvalidArchive,
        "lacks",
    ),
    "a wrong name": (
        layout([tagged(GOOD, "Bad Name")], GOOD.blobs),
        InvalidArchive,
        "names an image",
    ),
    "other content": (lying(), InvalidImage, "where sha256:.* is said"),
    "no manifest": (
        tar_of({"manifest.json": b"{}"}),
        InvalidArchive,
        "not as Docker writes it",
    ),
    "a way out": (holding(tar_of({"../x": b"1"})), UnsafeArchive, "leads out"),
    "an absolute name": (holding(tar_of({"/x": b"1"})), UnsafeArchive, "absolute"),
    "a link and below": (
        holding(tar_of({"l": "/", "l/x": b"1"})),
        UnsafeArchive,
        "no folder of it",
    ),
    "a link out": (holding(hard("../../../etc/passwd")), UnsafeArchive, "leads out"),
    "a name twice": (holding(tar_of({"a": b"1", "./a": b"2"})), UnsafeArchive, "two entries"),
    "a device": (holding(tar_of({"x": b""}, type=tarfile.CHRTYPE)), UnsafeArchive, "device"),
    "packed by xz": (
        layout(
            [tagged(GOOD, "a")],
            GOOD.blobs | {digest_of(GOOD.layers[1]): b"\xfd7zXZ\0" + bytes(100)},
        ),
        InvalidArchive,
        "does not match its digest",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(root: Path, stores: Stores, name: str) -> None:
    """Each wrong archive is one named error, and nothing of it stays, also of what came before."""
    data, error, why = BAD[name]
    with pytest.raises(error, match=why):
        load(stores, data)
    assert leftovers(root) == []
    assert stores.images.refs() == {}
    assert not (root / "x").exists()


def test_a_device_below_dev_is_passed_over(stores: Stores) -> None:
    """Images hold nodes like /dev/null: every container has those of its own."""
    nodes = tar_of({"dev/null": b""}, type=tarfile.CHRTYPE)
    [found] = load(stores, holding(nodes))
    assert not (stores.images.trees(found.image)[0] / "dev/null").exists()


def test_bombs(root: Path, stores: Stores) -> None:
    """A layer that grows out of all proportion, or over a limit of size or count, does not stay."""
    bomb = gzip.compress(tar_of({"zeros": bytes(100 << 20)}))
    with pytest.raises(ArchiveTooLarge, match="as bombs do"):
        rootfs.take_in(stores.images, io.BytesIO(bomb))
    many = tar_of({f"f{n}": b"x" for n in range(30)})
    for limits, why in (
        (UnpackLimits(entries=20), "more than 20 entries"),
        (UnpackLimits(size=20), "more than 20 bytes"),
    ):
        with pytest.raises(ArchiveTooLarge, match=why), intake(stores.images, limits) as taking:
            with stores.layers.blobs.incoming([many]) as blob:
                taking.layer(blob)
    assert leftovers(root) == []


def test_two_images_of_which_one_is_bad(stores: Stores) -> None:
    """A failure does not take away what an earlier image has."""
    good = Foreign([(LOWER, "gzip")])
    load(stores, layout([tagged(good, "good:1")], good.blobs))
    with pytest.raises(UnsafeArchive):
        load(stores, holding(tar_of({"../x": b"1"})))
    stores.images.verify("good:1")


def test_save_is_deterministic_and_comes_back(root: Path, stores: Stores) -> None:
    """The same images give the same bytes from any store, and load to the same digests."""
    image = Foreign([(LOWER, "gzip"), (UPPER, "zstd")])
    load(stores, layout([tagged(image, "app:v1")], image.blobs))
    stores.images.tag("app:v2", "app:v1")
    own = make(stores, "own:1", {"a": "1"})
    first, second = io.BytesIO(), io.BytesIO()
    archives.save(stores.images, ["app", "own:1"], first)
    other = Stores.open(root / "other")
    loaded = load(other, first.getvalue())
    assert {each.image.digest: each.refs for each in loaded} == {
        image.digest: ("app:v1", "app:v2"),
        own.digest: ("own:1",),
    }
    archives.save(other.images, ["app", "own:1"], second)
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as tar:
        names = tar.getnames()
    assert names[-3:] == ["index.json", "manifest.json", "oci-layout"]
    assert names[2:-3] == sorted(names[2:-3])


def test_save_of_a_damaged_image(root: Path, stores: Stores) -> None:
    """A damaged blob is found while it is written, and it is said how to have it again."""
    image = make(stores, "app:1", {"a": "1"})
    path = stores.layers.blobs.path(image.layers[0].digest)
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    with pytest.raises(DamagedBlob, match="does not match its digest; load, import or build app:1"):
        archives.save(stores.images, ["app:1"], io.BytesIO())


@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, zstd], ids=["plain", "gzip", "zstd"]
)
def test_import_is_deterministic(root: Path, stores: Stores, pack: Any) -> None:
    """The same root file system is the same image however it is packed, with what --change says."""
    one = rootfs.take_in(stores.images, io.BytesIO(pack(LOWER)), "a:1", ["ENV A=b", "CMD x"], "why")
    other = Stores.open(root / "other")
    two = rootfs.take_in(other.images, io.BytesIO(LOWER), "b:1", ["ENV A=b", "CMD x"], "why")
    assert (one.digest, one.id) == (two.digest, two.id)
    assert one.config.env == {"A": "b"}
    assert one.config.cmd == ("/bin/sh", "-c", "x")
    assert [step.comment for step in listing.history(stores.images, one)] == ["why"]


def test_import_refuses_before_it_reads(root: Path, stores: Stores) -> None:
    """A wrong --change is told before anything is taken in."""
    with pytest.raises(InvalidImage, match="not known"):
        rootfs.take_in(stores.images, io.BytesIO(LOWER), None, ["RUN x"])
    assert leftovers(root) == []


# -- removing -----------------------------------------------------------------------------------


def use(root: Path, name: str, image: str, digest: str) -> None:
    """The record of a container that does not run."""
    folder = root / "containers" / name
    folder.mkdir(parents=True)
    (folder / "container.json").write_text(json.dumps({"image": image, "digest": digest}))


def test_rmi_by_name(root: Path, stores: Stores) -> None:
    """A name goes first; the content goes with the last one, and a layer of another image stays."""
    image = make(stores, "a:1", {"x": "1"})
    shared = stores.images.write(list(image.layers), stores.images.get("a:1").config, "b:1")
    assert shared.digest == image.digest
    assert removing.remove(stores.images, "a:1").deleted == ()
    done = removing.remove(stores.images, "b:1")
    assert (done.untagged, done.deleted) == (("b:1",), (image.id,))
    assert done.freed > 0
    assert leftovers(root) == []


def test_rmi_by_id(stores: Stores) -> None:
    """By its id an image goes with all names of one repository; more repositories must be forced."""
    image = make(stores, "a:1", {"x": "1"})
    stores.images.tag("a:2", "a:1")
    stores.images.tag("b:1", "a:1")
    with pytest.raises(ImageInUse, match="several repositories"):
        removing.remove(stores.images, image.id)
    removing.remove(stores.images, "b:1")
    assert removing.remove(stores.images, image.id[7:15]).untagged == ("a:1", "a:2")


def test_what_a_container_uses_stays(root: Path, stores: Stores) -> None:
    """Neither rmi, forced or not, nor any prune takes what a stopped container needs."""
    image = make(stores, "a:1", {"x": "1"})
    use(root, "box", "a:1", image.digest)
    with pytest.raises(ImageInUse, match="used by container box"):
        removing.remove(stores.images, "a:1")
    assert removing.remove(stores.images, "a:1", force=True).deleted == ()
    assert stores.images.refs() == {}
    assert removing.prune(stores.images, everything=True).deleted == ()
    stores.images.prune([], grace=-1)
    stores.images.verify(image.digest)
    run("rm", "-r", root / "containers")
    assert removing.prune(stores.images).deleted == (image.id,)
    assert leftovers(root) == []


def test_an_image_that_lost_its_name(stores: Stores) -> None:
    """When a tag moves on, the image it left is listed without a name, until prune."""
    old = make(stores, "a:1", {"x": "1"})
    new = make(stores, "a:1", {"x": "2"})
    found = {each.digest: each.ref for each in listing.listed(stores.images)}
    assert found == {old.digest: None, new.digest: "a:1"}
    assert removing.prune(stores.images).deleted == (old.id,)
    stores.images.verify("a:1")


def test_rmi_leaves_what_another_image_is_being_made_of(root: Path, stores: Stores) -> None:
    """A layer that somebody has just wanted again outlives the image that had it."""
    image = make(stores, "a:1", {"x": "1"})
    time.sleep(0.02)
    layer = make(Stores.open(root), None, {"x": "1"}).layers[0]
    stores.images.index.drop([image.digest])
    stores.images.write([layer], stores.images.load(image.digest).config, "b:1")
    stores.images.verify("b:1")


def test_a_damaged_image_can_be_removed(root: Path, stores: Stores) -> None:
    """An image whose manifest cannot be read any more is listed as such, and goes."""
    image = make(stores, "a:1", {"x": "1"})
    stores.layers.blobs.path(image.digest).write_text("{}")
    [listed] = listing.listed(stores.images)
    assert (listed.ref, listed.id) == ("a:1", "")
    removing.remove(stores.images, "a:1")
    assert listing.listed(stores.images) == []


# -- kills --------------------------------------------------------------------------------------

LOADER = """
import sys
from pathlib import Path
from shipway.runtime.images import archives
from shipway.runtime.images.store import Stores
stores = Stores.open(Path(sys.argv[1]))
print("go", flush=True)
for name in sys.argv[2:]:
    with open(name, "rb") as file:
        archives.load(stores.images, file)
"""


def test_kill_at_any_moment(root: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 while images come in leaves a store that works, and nothing that prune does not find."""
    files = []
    for number in range(6):
        own = tar_of({f"f{n}": os.urandom(20_000) for n in range(20)})
        image = Foreign([(LOWER, "gzip"), (own, "gzip")], Labels={"n": str(number)})
        files.append(root / f"{number}.tar")
        files[-1].write_bytes(layout([tagged(image, f"app:{number}")], image.blobs))
    for round_ in range(12):
        command = [sys.executable, "-c", LOADER, str(root), *map(str, files)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(round_ * 0.007)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for ref in stores.images.refs():
            stores.images.verify(ref)
        with contextlib.suppress(IndexError):
            removing.remove(stores.images, sorted(stores.images.refs())[round_ % 2])
    load(stores, files[0].read_bytes())
    stores.images.verify("app:0")
    for ref in list(stores.images.refs()):
        removing.remove(stores.images, ref)
    monkeypatch.setattr("shipway.runtime.images.blobs.STALE", -1.0)
    stores.images.prune([], grace=-1)
    assert leftovers(root) == []


def test_two_processes_load_the_same(root: Path, stores: Stores) -> None:
    """Processes that take in the same image at once, with rmi beside them, all succeed."""
    image = Foreign([(LOWER, "gzip"), (UPPER, "gzip")])
    path = root / "a.tar"
    path.write_bytes(layout([tagged(image, "app:1")], image.blobs))
    command = [sys.executable, "-c", LOADER, str(root), *[str(path)] * 8]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    stores.images.verify("app:1")
