"""A layer of the buildpack that runs: its folder, its metadata, its environment."""

import os
from collections.abc import Mapping
from typing import Any

from shipway.buildpacks.kit.context import Context

FINGERPRINT = "fingerprint"


class Layer:
    """The layer `name`. A fingerprint says what it was made from."""

    def __init__(self, context: Context, name: str) -> None:
        self.name = name
        self.path = os.path.join(context.layers, name)

    def made_from(self, fingerprint: str | None) -> bool:
        """Whether the previous build's layer is here and was made from the same."""
        return fingerprint is not None and self._previous() == fingerprint

    def empty(self) -> None:
        """Throw away what is there, so that nothing of it can come into the new content."""
        import shutil  # a build without news has no need of it

        shutil.rmtree(self.path, ignore_errors=True)
        os.makedirs(self.path)

    def keep(
        self,
        fingerprint: str | None,
        *,
        launch: bool = False,
        build: bool = False,
        cache: bool = False,
        **metadata: Any,
    ) -> None:
        """Declare the layer. Without a fingerprint it is made anew in every build.

        A layer of both `launch` and `cache` is at hand in the next build without a copy.
        """
        from shipway.buildpacks.kit import toml

        known = {} if fingerprint is None else {FINGERPRINT: fingerprint}
        types = {"launch": launch, "build": build, "cache": cache}
        toml.write(f"{self.path}.toml", {"types": types, "metadata": {**metadata, **known}})

    def set_env(
        self,
        values: Mapping[str, str],
        *,
        phase: str = "launch",
        action: str = "default",
        process: str = "",
        delimiter: str = "",
    ) -> None:
        """Write environment files. `phase`: `launch`, `build`, or empty for both.

        `action`: `default` yields to what the app sets, `override`, `prepend` and `append` do not.
        """
        folder = os.path.join(self.path, f"env.{phase}" if phase else "env", process)
        os.makedirs(folder, exist_ok=True)
        for name, value in values.items():
            self._write(folder, f"{name}.{action}", value)
            if delimiter:
                self._write(folder, f"{name}.delim", delimiter)

    def prepend_path(self, folder: str, *, phase: str = "") -> None:
        """Put a folder before all in PATH; a layer's own `bin` is there by itself."""
        self.set_env({"PATH": folder}, phase=phase, action="prepend", delimiter=os.pathsep)

    @staticmethod
    def _write(folder: str, name: str, text: str) -> None:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def _previous(self) -> str | None:
        """Read as `toml.write` wrote it: a TOML parser would cost more than all else here."""
        try:
            with open(f"{self.path}.toml", encoding="utf-8") as file:
                pairs = [line.partition("=") for line in file]
        except (OSError, ValueError):
            return None
        found = [text.strip().strip("\"'") for key, _, text in pairs if key.strip() == FINGERPRINT]
        return found[0] if found else None
