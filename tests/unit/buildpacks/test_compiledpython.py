"""Python's compiled files in a tree whose times become fixed."""

import os
import py_compile
import subprocess
import sys
from pathlib import Path

from shipway.buildpacks.compiledpython import pin_times


def test_pinned_files_stay_valid(tmp_path: Path) -> None:
    """A compiled file is still used after its source got the fixed time."""
    source = tmp_path / "m.py"
    source.write_text("x = 1\n")
    py_compile.compile(str(source), doraise=True)
    assert pin_times(tmp_path, 315532801) == 1
    os.utime(source, (315532801, 315532801))
    done = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import m"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"matches {source}" in done.stderr


def test_linked_source(tmp_path: Path) -> None:
    """A source that is an absolute link is found inside the tree, as Debian's sitecustomize is."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc/m.py").write_text("x = 1\n")
    py_compile.compile(
        str(tmp_path / "etc/m.py"), str(tmp_path / "lib/__pycache__/m.cpython-311.pyc")
    )
    (tmp_path / "lib/m.py").symlink_to("/etc/m.py")
    assert pin_times(tmp_path, 315532801) == 1


def test_stale_files_stay_stale(tmp_path: Path) -> None:
    """A compiled file that does not fit its source is left alone, and so is a link."""
    source = tmp_path / "m.py"
    source.write_text("x = 1\n")
    py_compile.compile(str(source), doraise=True)
    source.write_text("x = 12\n")
    (tmp_path / "__pycache__/n.cpython-311.pyc").symlink_to("/etc/passwd")
    assert pin_times(tmp_path, 315532801) == 0
