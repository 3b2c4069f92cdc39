"""The apps' repositories, with a real git."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.platform.errors import InvalidName, NotFound
from shipway.platform.repos import NO_COMMIT, GitFailed, Repos, environment
from shipway.platform.settings import Settings
from support import scratch

IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]


@pytest.fixture
def repos() -> Iterator[Repos]:
    """The repositories of an empty data folder."""
    with scratch() as folder:
        yield Repos(Settings(data=folder))


def git(path: Path, *args: str, **env: str) -> str:
    """Run git in a bare repository."""
    done = subprocess.run(
        ["git", f"--git-dir={path}", *IDENTITY, *args],
        env=environment(**env),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def commit(path: Path, message: str = "x") -> str:
    """An empty commit in a bare repository."""
    tree = git(path, "hash-object", "-w", "-t", "tree", "/dev/null")
    return git(path, "commit-tree", tree, "-m", message)


def test_a_repository_is_made_once_with_its_rules(repos: Repos) -> None:
    """Hostile objects are refused by its own config; asking again changes nothing."""
    path = repos.ensure("hello", 1)
    made = path.stat().st_ino
    assert git(path, "config", "receive.fsckObjects") == "true"
    assert git(path, "config", "receive.fsck.zeroPaddedFilemode") == "ignore"
    assert git(path, "config", "transfer.hideRefs") == "refs/builds"
    assert git(path, "config", "gc.auto") == "0"
    assert not (path / "hooks").exists()
    assert repos.ensure("hello", 1).stat().st_ino == made


def test_what_another_app_of_that_name_left_is_removed(repos: Repos) -> None:
    """A new app never shows the commits of one that was destroyed."""
    path = repos.ensure("hello", 1)
    repos.move_branch("hello", "refs/heads/main", commit(path))
    repos.ensure("hello", 2)
    assert repos.branch("hello", "refs/heads/main") is None


def test_a_name_leads_nowhere_else(repos: Repos) -> None:
    """A path is made of a valid app name only."""
    for name in ("../x", "a/b", "", "-x", "A", "x" * 64):
        with pytest.raises(InvalidName):
            repos.path(name)


def test_a_branch_moves_only_from_where_it_was_thought(repos: Repos) -> None:
    """Compare-and-swap with `old`, in any case without."""
    path = repos.ensure("hello", 1)
    one, two = commit(path, "one"), commit(path, "two")
    ref = "refs/heads/main"
    assert repos.move_branch("hello", ref, one, NO_COMMIT)
    assert not repos.move_branch("hello", ref, two, NO_COMMIT)
    assert not repos.move_branch("hello", ref, two, two)
    assert repos.move_branch("hello", ref, two, one)
    assert repos.branch("hello", ref) == two
    assert repos.move_branch("hello", ref, one)
    with pytest.raises(GitFailed, match="could not be moved"):
        repos.move_branch("hello", ref, "c" * 40)


def test_only_commits_are_commits(repos: Repos) -> None:
    """A tree, a missing object or an option is none."""
    path = repos.ensure("hello", 1)
    tree = git(path, "hash-object", "-w", "-t", "tree", "/dev/null")
    assert repos.has_commit("hello", commit(path))
    assert not repos.has_commit("hello", tree)
    assert not repos.has_commit("hello", "d" * 40)


def test_the_archive_holds_every_file(repos: Repos, tmp_path: Path) -> None:
    """Also those that .gitattributes would leave out or rewrite."""
    path = repos.ensure("hello", 1)
    (tmp_path / ".gitattributes").write_text("secret export-ignore\nversion export-subst\n")
    (tmp_path / "secret").write_text("kept\n")
    (tmp_path / "version").write_text("$Format:%H$\n")
    index = str(tmp_path / "index")
    git(
        path,
        f"--work-tree={tmp_path}",
        "add",
        ".gitattributes",
        "secret",
        "version",
        GIT_INDEX_FILE=index,
    )
    tree = git(path, "write-tree", GIT_INDEX_FILE=index)
    head = git(path, "commit-tree", tree, "-m", "x")
    tar = subprocess.run(
        repos.archive("hello", head), env=environment(), capture_output=True, check=True
    ).stdout
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "out"], input=tar, check=True)
    assert (tmp_path / "out/secret").read_text() == "kept\n"
    assert (tmp_path / "out/version").read_text() == "$Format:%H$\n"


def test_the_commit_of_a_build_is_kept(repos: Repos) -> None:
    """No branch leads to it, and yet packing the repository leaves it; that of a dead build goes."""
    path = repos.ensure("hello", 1)
    head, dead = commit(path, "head"), commit(path, "dead")
    repos.keep("hello", 7, head)
    repos.keep("hello", 8, dead)
    repos.maintain("hello", [8, 9])
    git(path, "gc", "--quiet", "--prune=now")  # the dead may lie loose or in a pack of their own
    assert repos.has_commit("hello", head)
    assert not repos.has_commit("hello", dead)


def test_a_removed_repository_is_gone(repos: Repos) -> None:
    """With all that was left of earlier removals; removing twice does no harm."""
    path = repos.ensure("hello", 1)
    repos.remove("hello")
    repos.remove("hello")
    assert list(path.parent.glob("*.git")) == list(path.parent.glob(".gone.*")) == []
    with pytest.raises(NotFound, match="nothing was pushed"):
        repos.has_commit("hello", "a" * 40)


def test_a_foreign_quarantine_is_refused(repos: Repos, tmp_path: Path) -> None:
    """Objects are linked from this repository's own folder only."""
    path = repos.ensure("hello", 1)
    for folder in (tmp_path, path / "objects" / "pack", path / "objects" / ".." / "tmp_objdir-x"):
        with pytest.raises(GitFailed):
            repos.adopt("hello", folder)
