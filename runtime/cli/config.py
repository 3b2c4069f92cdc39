"""The one place where the engine's command reads the environment."""

import os
from pathlib import Path

from shipway.runtime.config import EngineConfig

DEFAULT_DATA = "/var/lib/shipway"


def engine_config(root: str | None) -> EngineConfig:
    """The engine that is meant: --root, else SHIPWAY_ENGINE, else the one of Shipway's data folder."""
    data = os.environ.get("SHIPWAY_DATA") or DEFAULT_DATA
    named = root or os.environ.get("SHIPWAY_ENGINE")
    return EngineConfig.of(Path(named or f"{data}/runtime").absolute())


def caller_variable(name: str) -> str | None:
    """The value of `-e NAME` without one: it is the caller's own."""
    return os.environ.get(name)
