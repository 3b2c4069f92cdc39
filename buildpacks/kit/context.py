"""What a build is given: folders, the target, settings. Read from the environment once."""

import os
from collections.abc import Mapping
from typing import NamedTuple


class Context(NamedTuple):
    """One run of bin/build.

    `app` is the app's folder, `layers` the buildpack's own. `cache` is a folder that lasts from
    build to build of this app and is in no image; None where the platform gives none. `env` is what
    bin/build was started with: the app's build settings and the operator's are in it.
    """

    app: str
    layers: str
    buildpack: str
    cache: str | None
    env: Mapping[str, str]

    @property
    def distro(self) -> str:
        """The target's distribution, such as `debian 13`."""
        name, version = (
            self.env.get(f"CNB_TARGET_DISTRO_{key}", "") for key in ("NAME", "VERSION")
        )
        return f"{name} {version}".strip()

    @property
    def stack(self) -> str:
        """The same as a person reads it: `Debian 13`."""
        return self.distro.title()

    @property
    def arch(self) -> str:
        """The machine, as Debian and the specification name it: `amd64`, `arm64`."""
        return self.env.get("CNB_TARGET_ARCH") or os.uname().machine

    def cached(self, name: str) -> str | None:
        """A folder of the cache, made if need be; None where there is no cache."""
        if self.cache is None:
            return None
        path = os.path.join(self.cache, name)
        os.makedirs(path, exist_ok=True)
        return path


def read() -> Context:
    """What this process was started with."""
    env = dict(os.environ)
    return Context(
        app=os.getcwd(),
        layers=env["CNB_LAYERS_DIR"],
        buildpack=env["CNB_BUILDPACK_DIR"],
        cache=env.get("SHIPWAY_CACHE_DIR") or None,
        env=env,
    )
