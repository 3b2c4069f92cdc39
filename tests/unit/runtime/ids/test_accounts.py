"""Users by name, from the layers of an image that means no good."""

import os
from pathlib import Path

import pytest

from shipway.runtime.errors import NoSuchUser
from shipway.runtime.ids.accounts import find_account, image_file

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/var/www:/bin/sh\nbad:x:y:1::/:\nshort:x\n"
GROUP = "root:x:0:\nweb:x:44:\nlog:x:4:web,root\nbig:x:50:nobody\n"


def layer(path: Path, **files: str) -> Path:
    """A layer with these files in its etc."""
    (path / "etc").mkdir(parents=True)
    for name, text in files.items():
        (path / "etc" / name).write_text(text)
    return path


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (4,), "/root")),
        ("web", (33, 44, (4,), "/var/www")),
        ("33", (33, 44, (4,), "/var/www")),
        ("web:big", (33, 50, (), "/var/www")),
        ("web:7", (33, 7, (), "/var/www")),
        ("1234", (1234, 0, (), "/")),
        ("1234:5678", (1234, 5678, (), "/")),
        (":log", (0, 4, (), "/root")),
    ],
)
def test_all_of_dockers_forms(tmp_path: Path, user: str, expected: tuple[object, ...]) -> None:
    """Names and numbers, with and without a group, mean what they mean to Docker."""
    found = find_account([layer(tmp_path / "a", passwd=PASSWD, group=GROUP)], user)
    assert (found.uid, found.gid, found.groups, found.home) == expected


@pytest.mark.parametrize("user", ["nobody", "bad", "short", "web:nobody"])
def test_unknown_names_are_named(tmp_path: Path, user: str) -> None:
    """A name that the files do not know is an error that says so."""
    with pytest.raises(NoSuchUser, match="use a number"):
        find_account([layer(tmp_path / "a", passwd=PASSWD, group=GROUP)], user)


def test_the_topmost_layer_decides(tmp_path: Path) -> None:
    """A file hides those below it; a whiteout and an opaque folder hide them too."""
    lower = layer(tmp_path / "lower", passwd="lower")
    upper = layer(tmp_path / "upper", passwd="upper")
    bare = tmp_path / "bare"
    bare.mkdir()
    path = ("etc", "passwd")
    assert image_file([upper, lower], path) == b"upper"
    assert image_file([bare, lower], path) == b"lower"
    gone = layer(tmp_path / "gone")
    os.mknod(gone / "etc/passwd", 0o20000, os.makedev(0, 0))
    assert image_file([gone, lower], path) == b""
    opaque = layer(tmp_path / "opaque")
    os.setxattr(opaque / "etc", "trusted.overlay.opaque", b"y")
    assert image_file([opaque, lower], path) == b""


def test_no_link_leads_out(tmp_path: Path) -> None:
    """A symbolic link as the file or as its folder is never followed, nor is a pipe waited for."""
    secret = layer(tmp_path / "host", passwd="secret")
    linked = layer(tmp_path / "linked")
    (linked / "etc/passwd").symlink_to(secret / "etc/passwd")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "etc").symlink_to(secret / "etc")
    pipe = layer(tmp_path / "pipe")
    os.mkfifo(pipe / "etc/passwd")
    for each in (linked, folder, pipe):
        assert image_file([each, secret], ("etc", "passwd")) == b""
