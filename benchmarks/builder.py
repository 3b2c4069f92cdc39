"""Our builds, as a worker makes them; as a program, builds in a process of their own.

`python -m benchmarks.builder` reads one line of JSON: `{"root", "run", "bridge", "subnet", "folder",
"ca", "env", "limits", "trees", "again"}`. It builds the trees at once, says `building` when it begins and, with
`again`, builds until its input ends. It imports what a builder needs, and no more: its memory is measured.
"""

import json
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shipway.buildpacks.build import BuildRequest, BuildResult, build
from shipway.buildpacks.errors import BuildCancelled
from shipway.buildpacks.stacks import ensure_stack
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.images.removing import remove
from shipway.runtime.spec import IdRange, Limits

IDS = IdRange(1 << 30)


class Builder:
    """Builds of apps on one engine. `setting` is the program's line of JSON."""

    def __init__(self, setting: Mapping[str, Any]) -> None:
        bridge = setting["bridge"]
        folders = (Path(setting["root"]), Path(setting["run"]))
        self.engine = Engine(EngineConfig(*folders, bridge, setting["subnet"], bridge, bridge))
        self.engine.setup()
        self._stack = ensure_stack(self.engine, output=lambda _line: None)
        self._folder = Path(setting["folder"])
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ca = Path(setting["ca"]) if setting["ca"] else None
        self._env: dict[str, str] = setting["env"]
        self._limits = Limits(**setting["limits"])
        self._last: dict[str, str] = {}
        self.cancelled = threading.Event()

    def build(self, app: str, tree: Path) -> BuildResult:
        """Build a tree of files as the next build of the app; its caches are the app's own.

        The copy of the tree is part of it: a worker unpacks a commit. Raises BuildFailed.
        """
        name = uuid.uuid4().hex[:8]
        work = self._folder / "work" / name
        work.mkdir(parents=True)
        subprocess.run(["cp", "-a", tree, work / "source"], check=True)
        request = BuildRequest(
            app=app,
            build_id=name,
            source=work / "source",
            previous=self._last.get(app),
            stack=self._stack,
            ids=IDS,
            workdir=work,
            env=self._env,
            ca_bundle=self._ca,
            limits=self._limits,
            ref=f"app/{app}:1",
            cache=self._folder / "cache" / app,
        )
        made = build(self.engine, request, lambda _line: None, self.cancelled)
        self._last[app] = made.image
        return made

    def forget(self, app: str, *, downloads: bool = True) -> None:
        """Remove the app's images and, unless they are to stay, its downloads: its next build is a first."""
        self._last.pop(app, None)
        refs = self.engine.images.refs()
        for ref in (f"app/{app}:1", f"cache/{app}"):
            if ref in refs:
                remove(self.engine.images, ref)
        if downloads:
            shutil.rmtree(self._folder / "cache" / app, ignore_errors=True)


def main() -> int:
    """Build as the line on standard input says."""
    setting = json.loads(sys.stdin.readline())
    builder = Builder(setting)

    def work(tree: str) -> None:
        app = f"p{uuid.uuid4().hex[:8]}"
        try:
            builder.build(app, Path(tree))
            while setting["again"]:
                builder.forget(app, downloads=False)
                builder.build(app, Path(tree))
        except BuildCancelled:
            pass
        finally:
            builder.forget(app)

    with ThreadPoolExecutor(max(1, len(setting["trees"]))) as threads:
        building = [threads.submit(work, tree) for tree in setting["trees"]]
        print("building", flush=True)
        if setting["again"]:
            sys.stdin.read()
            builder.cancelled.set()
        for one in building:
            one.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
