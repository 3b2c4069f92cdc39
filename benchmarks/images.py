"""The image rows: import, load and commit of 500 MB in 20,000 files, beside Docker Engine."""

import io
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench, Row
from benchmarks.measure import RUNS, timed

FOLDERS, FILES = 400, 50
SIZE = 500_000_000
GOAL = 1.0


def rootfs(folder: Path) -> Path:
    """A tar of FOLDERS × FILES files of many sizes, SIZE bytes in all, half of it noise."""
    path = folder / "rootfs.tar"
    if path.exists():
        return path
    chance = random.Random(1)
    weights = [chance.paretovariate(1.2) for _ in range(FOLDERS * FILES)]
    scale = SIZE / sum(min(each, 100) for each in weights)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, weight in enumerate(weights):
            if number % FILES == 0:
                made = tarfile.TarInfo(f"usr/d{number // FILES}")
                made.type, made.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(made)
            size = int(min(weight, 100) * scale)
            made = tarfile.TarInfo(f"usr/d{number // FILES}/f{number % FILES}")
            made.size, made.mtime = size, 1_700_000_000 + number
            noise = chance.randbytes(size // 2)
            tar.addfile(made, io.BytesIO(noise + bytes(size - len(noise))))
    return path


class _Ours:
    """The engine's own command, on an engine root of its own."""

    def __init__(self, bench: Bench) -> None:
        self._root = bench.folder / "images"
        self._argv = [sys.executable, "-m", "shipway.runtime", "--root", str(self._root)]

    def __call__(self, *args: str) -> None:
        subprocess.run([*self._argv, *args], check=True, stdout=subprocess.DEVNULL)


def _both(
    bench: Bench,
    name: str,
    mine: Callable[[], float],
    docker: Callable[[], float],
    peer: str,
) -> Row:
    """Both sides in turn, so that what the disk is busy with meets both."""
    ours, peers = [], []
    for _ in range(RUNS):
        peers.append(docker())
        ours.append(mine())
        print(f"       {name}: ours {ours[-1]:.2f}, docker {peers[-1]:.2f}", flush=True)
    return bench.row(name, "s", ours, peers, peer, GOAL)


def image_import(bench: Bench) -> Row:
    """The tar of a root file system made an image."""
    tar, ours = str(rootfs(bench.folder)), _Ours(bench)

    def mine() -> float:
        taken = timed(lambda: ours("import", tar, "bench-import:1"))
        ours("rmi", "bench-import:1")
        return taken

    def docker() -> float:
        taken = timed(lambda: bench.docker.run("import", tar, "bench-import:1"))
        bench.docker.run("rmi", "bench-import:1")
        return taken

    return _both(bench, "image-import", mine, docker, "docker import")


def image_load(bench: Bench) -> Row:
    """What `docker save` wrote taken in again: checked and unpacked."""
    saved, ours = str(bench.folder / "saved.tar"), _Ours(bench)
    bench.docker.run("import", str(rootfs(bench.folder)), "bench-load:1")
    bench.docker.run("save", "-o", saved, "bench-load:1")
    bench.docker.run("rmi", "bench-load:1")

    def mine() -> float:
        taken = timed(lambda: ours("load", "-i", saved))
        ours("rmi", "bench-load:1")
        return taken

    def docker() -> float:
        taken = timed(lambda: bench.docker.run("load", "-i", saved))
        bench.docker.run("rmi", "bench-load:1")
        return taken

    return _both(bench, "image-load", mine, docker, "docker load")


def image_commit(bench: Bench) -> Row:
    """A container that has written all those files made an image."""
    from shipway.runtime.images.commit import Change, commit
    from shipway.runtime.images.removing import remove
    from shipway.runtime.images.store import ImageConfig, Stores

    tar = rootfs(bench.folder)
    bench.docker.run("import", str(tar), "bench-base:1")
    box = bench.docker.run("create", "bench-base:1", "/bin/true")
    with tar.open("rb") as file:
        bench.docker.run("cp", "-", f"{box}:/", stdin=file)
    stores = Stores.open(bench.folder / "images")
    base = stores.images.write([], ImageConfig(), "bench-base:1")
    upper = bench.folder / "images" / "upper"
    if not upper.exists():
        upper.mkdir()
        subprocess.run(["tar", "-xf", str(tar), "-C", str(upper)], check=True)

    def mine() -> float:
        taken = timed(lambda: commit(stores.images, base, upper, Change("bench-commit:1")))
        remove(stores.images, "bench-commit:1")
        return taken

    def docker() -> float:
        taken = timed(lambda: bench.docker.run("commit", box, "bench-commit:1"))
        bench.docker.run("rmi", "bench-commit:1")
        return taken

    row = _both(bench, "image-commit", mine, docker, "docker commit")
    bench.docker.run("rm", box)
    bench.docker.run("rmi", "bench-base:1")
    return row


ROWS: dict[str, Callable[[Bench], Row]] = {
    "image-import": image_import,
    "image-load": image_load,
    "image-commit": image_commit,
}
