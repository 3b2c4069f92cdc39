"""Heroku's classic buildpacks, wrapped into one of the specification's by the adapter in classic/."""

import json
import os
import shutil
from pathlib import Path

from shipway.buildpacks.catalog import HERE
from shipway.buildpacks.descriptor import Source, load
from shipway.buildpacks.errors import InvalidBuildpack

ADAPTER = HERE / "classic"
TARGET = "target"  # the classic buildpack's folder within the adapter's
PREFIX = "classic/"
HOME = "/app"  # where a classic buildpack expects the app to run


def wrap(folder: Path, target: Path, id_: str) -> Source:
    """Put the adapter around the classic buildpack in `folder`. Raises InvalidBuildpack."""
    for name in ("detect", "compile"):
        path = folder / "bin" / name
        if (folder / "bin").is_symlink() or path.is_symlink() or not path.is_file():
            raise InvalidBuildpack(
                f"{id_.removeprefix(PREFIX)} is no buildpack: it has neither a buildpack.toml nor "
                f"a file bin/{name}"
            )
    shutil.copytree(ADAPTER, target, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
    os.rename(folder, target / TARGET)
    text = (target / "buildpack.toml").read_text(encoding="utf-8")
    (target / "buildpack.toml").write_text(text.replace('"classic/adapter"', json.dumps(id_)))
    return load(target)
