"""The apps' bare git repositories, one folder each: `<data>/repos/<app>.git`.

What is pushed is hostile until git has checked it, so the checks stand in each repository's own config, and git runs
with an environment of ours alone. GitPython makes and configures repositories; it hands git this process's whole
environment, so everything that touches what was pushed is an argv list run by `_git`.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shipway.platform.errors import NotFound, ShipwayError
from shipway.platform.files import atomic_write
from shipway.platform.names import app_name
from shipway.platform.settings import Settings

OWNER_FILE = "shipway-app"  # holds the id of the app that the repository belongs to
BUILD_REFS = (
    "refs/builds/"  # one ref per build keeps its commit from being pruned; hidden from clients
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NO_COMMIT = "0" * 40
MOST_FILES = 200_000  # of one app

CONFIG: dict[tuple[str, str], str] = {
    ("receive", "fsckObjects"): "true",
    ('receive "fsck"', "zeroPaddedFilemode"): "ignore",  # many old and honest repositories have it
    ("receive", "denyDeleteCurrent"): "refuse",
    ("receive", "autogc"): "false",  # never while somebody waits for a push: see `maintain`
    ("gc", "auto"): "0",
    ("transfer", "hideRefs"): BUILD_REFS.rstrip("/"),
    ("core", "logAllRefUpdates"): "false",
    # A confirmed push survives a power cut; one fsync for all of its objects.
    ("core", "fsync"): "committed,loose-object",
    ("core", "fsyncMethod"): "batch",
}
# A build gets every file that was pushed, as it was pushed.
ATTRIBUTES = "* -export-ignore -export-subst\n"


class TooManyFiles(ShipwayError):
    """A commit holds more files than a build takes."""


class GitFailed(ShipwayError):
    """Git refused or failed; the message holds its last line."""

    status = 500


class Repos:
    """The repositories of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.repos
        self._push_size = settings.push_size

    def path(self, app: str) -> Path:
        """Where the app's repository is, or would be. Raises InvalidName."""
        return self._folder / f"{app_name(app)}.git"

    def ensure(self, app: str, app_id: int) -> Path:
        """The app's repository, made if it is missing; one left behind by another app of that name is removed."""
        path = self.path(app)
        if _owner(path) == app_id:
            return path
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._folder / ".lock"):
            if _owner(path) != app_id:
                self.remove(app)
                _create(path, app_id)
        return path

    def remove(self, app: str) -> None:
        """Remove the app's repository, if it is there."""
        path = self.path(app)
        gone = path.with_name(f".gone.{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(
                gone
            )  # at once, and for good: a removal that is cut short leaves no half repository
        for leftover in self._folder.glob(".gone.*"):
            shutil.rmtree(leftover, ignore_errors=True)

    # -- what workers ask --------------------------------------------------------------------

    def has_commit(self, app: str, commit: str) -> bool:
        """Whether `commit` is there, and is a commit."""
        done = _git(self.path(app), "cat-file", "-t", commit)
        return done.returncode == 0 and done.stdout.strip() == b"commit"

    def archive(self, app: str, commit: str, folder: str = "") -> list[str]:
        """The argv that writes the commit's files, or those of one folder, to its stdout as a tar.

        Run it with `environment()`.
        """
        path = self.path(app)
        tree = f"{commit}:{folder}" if folder else commit
        return ["git", f"--git-dir={path}", "archive", "--format=tar", tree, "--"]

    def tree(self, app: str, commit: str, folder: str = "") -> str | None:
        """The id of the tree of a commit, or of a folder in it; None if there is no such folder."""
        name = f"{commit}:{folder}" if folder else f"{commit}^{{tree}}"
        path = self.path(app)
        done = _git(path, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
        if done.returncode:
            return None
        found = done.stdout.decode().strip()
        return found if _git(path, "cat-file", "-t", found).stdout.strip() == b"tree" else None

    def links(self, app: str, commit: str, folder: str = "") -> dict[str, str]:
        """The commits of its submodules, by path. Raises GitFailed, TooManyFiles.

        A tree that names the same folder over and over may hold more files than there is time to
        list, so the listing ends at MOST_FILES.
        """
        argv = ["git", f"--git-dir={self.path(app)}", "ls-tree", "-r", "-z", commit, "--"]
        found = {}
        with subprocess.Popen(
            [*argv, *([f"{folder}/"] if folder else [])],
            env=environment(GIT_LITERAL_PATHSPECS="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as git:
            assert git.stdout
            for number, line in enumerate(_records(git.stdout), 1):
                if number > MOST_FILES:
                    git.kill()
                    where = f"The folder {folder!r} of commit" if folder else "Commit"
                    raise TooManyFiles(
                        f"{where} {commit[:8]} has more than {MOST_FILES} files, the most that a"
                        " build takes."
                    )
                about, _, name = line.partition(b"\t")
                if about.startswith(b"160000 "):
                    found[os.fsdecode(name)] = about.split()[2].decode()
        if git.returncode:
            raise GitFailed(f"git ls-tree failed: it ended with {git.returncode}.")
        return found

    def submodules(self, app: str, commit: str) -> dict[str, dict[str, str]]:
        """What .gitmodules says, {section: {key: value}}; {} without the file. Raises GitFailed."""
        if _git(self.path(app), "cat-file", "-e", f"{commit}:.gitmodules").returncode:
            return {}
        blob = f"{commit}:.gitmodules"
        listed = _check(_git(self.path(app), "config", "--blob", blob, "--null", "--list"))
        found: dict[str, dict[str, str]] = {}
        for line in listed.split(b"\0"):
            key, _, value = os.fsdecode(line).partition("\n")
            section, _, name = key.rpartition(".")
            if section.startswith("submodule."):
                found.setdefault(section.removeprefix("submodule."), {})[name] = value
        return found

    def lfs_pointers(self, app: str, commit: str, folder: str = "") -> list[str]:
        """Files that only stand for content kept by Git LFS, by path."""
        path = self.path(app)
        tree = f"{commit}:{folder}" if folder else commit
        # Attributes may stand anywhere, and are few; without the filter nothing is a pointer.
        marked = _git(path, "grep", "-q", "filter=lfs", tree, "--", ":(glob)**/.gitattributes")
        if marked.returncode:
            return []
        argv = ("grep", "-l", "-z", "-I", "^version https://git-lfs.github.com/spec/v1$", tree)
        found = _git(path, *argv).stdout.split(b"\0")
        prefix = f"{tree}:".encode()
        return [os.fsdecode(each.removeprefix(prefix)) for each in found if each]

    # -- commits of our own ------------------------------------------------------------------

    def only_folder_as_root(self, app: str, ref: str, author: str, now: float) -> str:
        """The commit at `ref`, or one of its only folder where it holds nothing else. Raises GitFailed."""
        path = self.path(app)
        commit = self.branch(app, ref)
        if commit is None:
            raise GitFailed(f"The commit at {ref} of {app} is not there.")
        rows = [row for row in _check(_git(path, "ls-tree", "-z", commit)).split(b"\0") if row]
        if len(rows) != 1 or rows[0].split()[1] != b"tree":
            return commit
        tree = rows[0].split()[2].decode()
        date = f"{int(now)} +0000"
        who = environment(
            GIT_AUTHOR_NAME=author or "somebody",
            GIT_COMMITTER_NAME=author or "somebody",
            GIT_AUTHOR_EMAIL="archive",
            GIT_COMMITTER_EMAIL="archive",
            GIT_AUTHOR_DATE=date,
            GIT_COMMITTER_DATE=date,
        )
        argv = ["git", f"--git-dir={path}", "commit-tree", "-m", "Archive", tree]
        done = subprocess.run(
            argv, env=who, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return _check(done).decode().strip()

    def drop(self, app: str, ref: str) -> None:
        """Delete a ref of ours, if it is there."""
        _git(self.path(app), "update-ref", "-d", ref)

    # -- branches ----------------------------------------------------------------------------

    def branch(self, app: str, ref: str) -> str | None:
        """The commit that `ref` (refs/heads/main) stands at; None if it is not there."""
        done = _git(self.path(app), "rev-parse", "--verify", "--quiet", "--end-of-options", ref)
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def move_branch(self, app: str, ref: str, commit: str, old: str | None = None) -> bool:
        """Move `ref` to `commit`; with `old` only from there (NO_COMMIT: only if it is new), else return False."""
        done = _git(self.path(app), "update-ref", ref, commit, *([old] if old else []))
        if done.returncode and not old:
            raise GitFailed(f"The branch {ref} of {app} could not be moved: {_last_line(done)}.")
        return done.returncode == 0

    def follow(self, app: str, branch: str) -> None:
        """Make `branch` (a short name) what a clone checks out."""
        _check(_git(self.path(app), "symbolic-ref", "HEAD", f"refs/heads/{branch}"))

    def keep(self, app: str, build_id: int, commit: str) -> None:
        """Keep the commit of a build from being pruned, wherever the branches go."""
        _check(_git(self.path(app), "update-ref", f"{BUILD_REFS}{build_id}", commit))

    @contextlib.contextmanager
    def lock(self, app: str) -> Iterator[None]:
        """Held by whoever moves the deploy branch, so that two of them do it one after the other."""
        with _locked(self.path(app) / "shipway.lock"):
            yield

    # -- receiving ---------------------------------------------------------------------------

    def adopt(self, app: str, quarantine: Path) -> None:
        """Link the objects that git holds back until the push is accepted into the repository, for the build to read.

        The same steps as git's own `tmp_objdir_migrate`, which finds them done later: hard links, a pack's index last.
        Raises GitFailed when the folder is gone: the client hung up, and git has cleaned up after it.
        """
        objects = self.path(app) / "objects"
        if quarantine.parent != objects or not quarantine.name.startswith("tmp_objdir-"):
            raise GitFailed("The push came with a quarantine folder that is not the repository's.")
        try:
            found = [Path(top, name) for top, _, names in os.walk(quarantine) for name in names]
            for source in sorted(found, key=lambda path: (path.suffix == ".idx", path)):
                target = objects / source.relative_to(quarantine)
                target.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.link(source, target)
        except FileNotFoundError:
            raise GitFailed("The push was given up by its client.") from None

    def service(self, app: str, name: str, *options: str, hooks: Path | None = None) -> list[str]:
        """The argv of git's side of a push (`receive-pack`, needs `hooks`) or a fetch (`upload-pack`)."""
        config = {
            "receive.maxInputSize": str(self._push_size),
            "core.hooksPath": str(hooks or "/dev/null"),
            # Branches are moved by us, at the moment their release goes live, and not by git at the push's end.
            "receive.procReceiveRefs": "am:refs/heads",
        }
        flags = [part for key, value in config.items() for part in ("-c", f"{key}={value}")]
        return ["git", *flags, name, *options, str(self.path(app))]

    def maintain(self, app: str, dead_builds: Iterable[int]) -> None:
        """Pack the repository and drop what nothing refers to since two weeks, and pushes that died half-way.

        The commits of `dead_builds` are kept no longer, unless a branch leads to them.
        """
        path = self.path(app)
        listed = _check(_git(path, "for-each-ref", "--format=%(refname)", BUILD_REFS))
        dead = {f"{BUILD_REFS}{build}" for build in dead_builds}
        for ref in dead.intersection(listed.decode().split()):
            _check(_git(path, "update-ref", "-d", ref))
        _check(_git(path, "gc", "--quiet", "--prune=2.weeks.ago"))


def environment(**more: str) -> dict[str, str]:
    """The environment that git runs in: nothing of the operator's config, no terminal to ask on."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        **more,
    }


def _create(path: Path, app_id: int) -> None:
    import git  # 0.1 s and 8 MB that only the first push of an app has to pay

    temp = path.with_name(f".new.{secrets.token_hex(4)}")
    clean = environment(GIT_DIR=str(temp), GIT_TEMPLATE_DIR="")
    repo = git.Repo.init(temp, bare=True, initial_branch="main", env=clean)
    with repo.config_writer() as config:
        for (section, key), value in CONFIG.items():
            config.set_value(section, key, value)
    repo.close()
    (temp / "info").mkdir(exist_ok=True)
    atomic_write(temp / "info" / "attributes", ATTRIBUTES)
    atomic_write(temp / OWNER_FILE, str(app_id))
    temp.rename(path)


def _owner(path: Path) -> int | None:
    try:
        return int((path / OWNER_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """What a stream holds between its NULs."""
    rest = b""
    while data := stream.read(1 << 16):
        *whole, rest = (rest + data).split(b"\0")
        yield from whole


def _git(path: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    if not path.is_dir():
        raise NotFound(f"The app {path.stem} has no repository yet: nothing was pushed to it.")
    argv = ["git", f"--git-dir={path}", *args]
    return subprocess.run(
        argv, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def _check(done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode:
        raise GitFailed(f"git {done.args[2]} failed: {_last_line(done)}.")
    return done.stdout


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {done.returncode}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
