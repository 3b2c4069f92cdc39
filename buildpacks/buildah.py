"""The image that Dockerfile builds run in: this host's buildah with the libraries it needs, and nothing else.

It is made in a blink from what Debian's package has put on the host, and anew when that is upgraded.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from shipway.buildpacks.stacks import Stores
from shipway.runtime import files
from shipway.runtime.errors import NoSuchImage
from shipway.runtime.images import tools
from shipway.runtime.images.store import Image, ImageConfig

REF = "tool/buildah:{}"
PROGRAM = "/usr/bin/buildah"
FOLDERS = ("dev", "etc/containers", "proc", "root", "run", "sys", "tmp", "var/tmp")
TEXTS = {
    "etc/containers/policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}\n',
    # Short names are Docker's; what is pulled is brought by the engine, never from in there.
    "etc/containers/registries.conf": (
        'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'
    ),
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
}
REVISION = 2  # raised when what is made here changes


def ensure(engine: Stores) -> Image:
    """The image, made if it is not there. Raises HostUnfit if buildah is not installed."""
    program = Path(tools.find("buildah"))
    programs = {PROGRAM: program}
    if helper := tools.netavark():
        programs[os.fspath(helper)] = helper
    libraries = {path: Path(path) for each in programs.values() for path in _libraries(each)}
    sources = {**libraries, **programs}
    ref = REF.format(_fingerprint(sources))
    try:
        return engine.images.get(ref)
    except NoSuchImage:
        pass
    with files.locked(engine.images.root / ".buildah.lock"):
        if ref in engine.images.refs():
            return engine.images.get(ref)
        with engine.layers.staged_tree() as tree:
            _fill(tree, sources)
            layer = engine.layers.commit(tree)
        image = engine.images.write([layer], ImageConfig(), ref)
        for other in engine.images.refs():
            if other.startswith(REF.format("")) and other != ref:
                engine.images.untag(other)
        return image


def _libraries(program: Path) -> Iterator[str]:
    """What the dynamic linker loads with a program, itself included."""
    done = subprocess.run(["ldd", os.fspath(program)], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        yield from (word for word in line.split() if word.startswith("/"))


def _fingerprint(sources: dict[str, Path]) -> str:
    found = [REVISION, *TEXTS.values()]
    for path, source in sorted(sources.items()):
        status = source.stat()
        found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _fill(tree: Path, sources: dict[str, Path]) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    for folder in ("tmp", "var/tmp"):
        (tree / folder).chmod(0o1777)
    for path, source in sources.items():
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        place.chmod(0o755)
    for path, text in TEXTS.items():
        (tree / path).write_text(text)
