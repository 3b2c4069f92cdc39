"""The submodules of a commit, fetched by git in a container of the build's: only from elsewhere, only as data."""

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shipway.buildpacks.container import CA_PATH, CA_VARIABLES, gentle
from shipway.buildpacks.lines import LineWriter
from shipway.platform.repos import Repos
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange, Limits, Mount
from shipway.workers.errors import SourceUnreadable

MOST = 100
TOP = "/workspace"
URL = re.compile(
    r"https://[^\s/@:-][^\s]*|ssh://[^\s-][^\s]*|[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*:[^\s]+",
    re.ASCII,
)
COMMIT = re.compile(r"[0-9a-f]{40,64}")
# $1 the path, $2 the URL, $3 the commit. What was fetched is files, and no repository any more.
FETCH = """\
set -eu
cd "$1"
export GIT_ALLOW_PROTOCOL=https:ssh GIT_TERMINAL_PROMPT=0 GIT_CONFIG_NOSYSTEM=1 HOME=/tmp
export GIT_SSH_COMMAND='ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new'
git init -q .
git fetch -q --depth 1 -- "$2" "$3" 2>&1 || git fetch -q -- "$2" 2>&1
git -c advice.detachedHead=false -c core.hooksPath=/dev/null checkout -q "$3" 2>&1
git ls-tree -r HEAD | awk '$1 == "160000"' > /tmp/nested
rm -rf .git
[ ! -s /tmp/nested ] || { echo "it has submodules of its own, which are not fetched"; exit 9; }
"""


@dataclass(frozen=True)
class Place:
    """Where, and within which limits, submodules are fetched."""

    container: str
    ids: IdRange
    limits: Limits
    env: Mapping[str, str]
    ca_bundle: Path | None
    stop: threading.Event
    timeout: float
    say: Callable[[str], None]
    prepared: Callable[[int], None] | None = None


def wanted(repos: Repos, app: str, commit: str, folder: str) -> dict[str, tuple[str, str]]:
    """The submodules below `folder`: path relative to it → (URL, commit).

    Raises SourceUnreadable, TooManyFiles.
    """
    links = repos.links(app, commit, folder)
    if not links:
        return {}
    by_path = {}
    for name, about in repos.submodules(app, commit).items():
        by_path[about.get("path", "")] = (name, about.get("url", ""))
    found = {}
    for path, linked in links.items():
        if folder and not PurePosixPath(path).is_relative_to(folder):
            continue
        if path not in by_path:
            raise SourceUnreadable(
                f"{path!r} is a submodule that .gitmodules does not name; add it there, or remove it."
            )
        url = by_path[path][1]
        if not URL.fullmatch(url) or not COMMIT.fullmatch(linked):
            raise SourceUnreadable(
                f"The submodule {path!r} has the URL {url[:200]!r} in .gitmodules; only https:// and"
                " ssh:// URLs are fetched, no local path and none relative to another."
            )
        found[str(PurePosixPath(path).relative_to(folder or "."))] = (url, linked)
    if len(found) > MOST:
        raise SourceUnreadable(f"There are {len(found)} submodules; at most {MOST} are fetched.")
    return found


def fetch(
    engine: Engine,
    image: str,
    source: Path,
    modules: Mapping[str, tuple[str, str]],
    build: Place,
) -> None:
    """Put the submodules' files into `source`. Raises SourceUnreadable, Cancelled, TimedOut."""
    for path, (url, commit) in sorted(modules.items()):
        build.say(f"-----> Fetching the submodule {path} from {_shown(url)}")
        said: list[str] = []
        lines = LineWriter(said.append)
        mounts = [Mount(os.fspath(source), TOP, own=True)]
        env = dict(build.env)
        if build.ca_bundle is not None:
            mounts.append(Mount(os.fspath(build.ca_bundle.resolve()), CA_PATH, readonly=True))
            env |= dict.fromkeys(CA_VARIABLES, CA_PATH)
        spec = ContainerSpec(
            id=build.container,
            image=image,
            args=("/bin/sh", "-c", FETCH, "fetch", f"{TOP}/{path}", url, commit),
            env=env,
            ids=build.ids,
            cwd=TOP,
            limits=gentle(build.limits),
            mounts=tuple(mounts),
            network=build.prepared is None,
        )
        ended = engine.execute(spec, lines.feed, build.stop, build.timeout, build.prepared)
        lines.close()
        if ended.code:
            why = next((each for each in reversed(said) if each.strip()), "git failed")
            raise SourceUnreadable(f"The submodule {path!r} cannot be fetched: {why.strip()}")


def _shown(url: str) -> str:
    """Without a password in it."""
    return re.sub(r"//[^@/]*@", "//", url)
