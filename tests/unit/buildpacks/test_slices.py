"""The app's folder in parts."""

import os
from pathlib import Path

import pytest

from shipway.buildpacks import slices
from shipway.buildpacks.errors import BuildFailed


def tree(folder: Path, *names: str) -> Path:
    app = folder / "workspace"
    for name in names:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(name)
    return app


def held(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def cut(app: Path, *wanted: list[str]) -> list[set[str]]:
    """What each slice took, and what was left."""
    parts = [app.parent / f"part-{number}" for number, _ in enumerate(wanted)]
    for part in parts:
        part.mkdir()
    found = slices.split(app, wanted, parts)
    sets = [held(part) for part in parts]
    assert found == [bool(names) for names in sets]
    return [*sets, held(app)]


def test_each_file_goes_to_the_first_slice_that_matches(tmp_path: Path) -> None:
    """A match takes a whole folder along; what is taken is gone for later slices."""
    app = tree(tmp_path, "a.js", "b.css", "deep/c.js", "deep/x/d.js", "node_modules/m/i.js")
    assert cut(app, ["node_modules", "*.js"], ["deep/*.js", "nothing*"], ["*.js"]) == [
        {"node_modules/m/i.js", "a.js"},
        {"deep/c.js"},
        set(),
        {"b.css", "deep/x/d.js"},
    ]


def test_a_part_and_then_the_whole(tmp_path: Path) -> None:
    """A folder of which a part was taken before ends up whole in the slice."""
    app = tree(tmp_path, "d/a", "d/b", "d/e/f", "g")
    assert cut(app, ["d/a", "d/e", "d"]) == [{"d/a", "d/b", "d/e/f"}, {"g"}]


@pytest.mark.parametrize(
    ("glob", "taken"),
    [
        ("[ab].x", {"a.x", "b.x"}),
        ("[^a].x", {"b.x", "^.x", "].x", "..x"}),
        ("[\\]].x", {"].x"}),
        ("?.x", {"a.x", "b.x", "^.x", "].x", "..x"}),
        ("./sub/../a.x", {"a.x"}),
        ("/workspace/b.x", {"b.x"}),
        ("\\^.x", {"^.x"}),
        ("[a-b].x", {"a.x", "b.x"}),
    ],
)
def test_globs(tmp_path: Path, glob: str, taken: set[str]) -> None:
    """The syntax is Go's filepath.Match, relative to the app or absolute within it."""
    app = tree(tmp_path, "a.x", "b.x", "^.x", "].x", "..x", "ab.x")
    assert cut(app, [glob])[0] == taken


@pytest.mark.parametrize("glob", ["../x", "/etc/*", "[a", "a/../../x", "[b-a]"])
def test_globs_that_cannot_be_used(tmp_path: Path, glob: str) -> None:
    """A glob that leaves the app, or cannot be read, is an error that names it."""
    with pytest.raises(BuildFailed) as error:
        cut(tree(tmp_path, "a"), [glob])
    assert repr(glob) in error.value.reason
    assert error.value.code == 62


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link is moved as a link; none leads a slice out of the app, or into a folder twice."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    app = tree(tmp_path, "a/b")
    os.symlink(outside, app / "link")
    os.symlink("a", app / "again")
    assert cut(app, ["link/*", "again/*"], ["link"])[1] == {"link"}
    assert (outside / "secret").exists()
    assert (app / "a/b").exists()


def test_owners_and_modes_of_folders_stay(tmp_path: Path) -> None:
    """The folders above a match are alike in every part."""
    app = tree(tmp_path, "d/e/f", "d/e/g")
    (app / "d").chmod(0o2750)
    os.chown(app / "d", 1000, 1001)
    cut(app, ["d/e/f"])
    for path in (app / "d", tmp_path / "part-0" / "d"):
        assert path.stat().st_mode & 0o7777 == 0o2750
        assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1001)


def test_a_glob_of_many_stars_takes_no_time(tmp_path: Path) -> None:
    """What a stranger wrote cannot hold up the process that reads it: this would take years."""
    app = tree(tmp_path, "a" * 250, "a" * 249 + "b")
    assert cut(app, ["*a" * 60 + "*b"]) == [{"a" * 249 + "b"}, {"a" * 250}]


@pytest.mark.parametrize(
    ("glob", "taken"),
    [
        ("*", {"aXbX", "ab"}),
        ("a*X", {"aXbX"}),
        ("a**b", {"ab"}),
        ("*X*X", {"aXbX"}),
        ("*b*", {"aXbX", "ab"}),
    ],
)
def test_stars(tmp_path: Path, glob: str, taken: set[str]) -> None:
    """Each stands for any characters, none included."""
    assert cut(tree(tmp_path, "aXbX", "ab"), [glob])[0] == taken
