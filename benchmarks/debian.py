"""Debian packages that only the bench needs."""

import os
import shutil
import subprocess
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")  # what asks it starts no server


def install(program: str, *packages: str) -> None:
    """Install `packages` unless `program` is there; servers among them are not started."""
    if shutil.which(program):
        return
    print(f"-----> Installing {packages[0]} (for the bench)", flush=True)
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
            check=True,
            env=env,
            stdout=subprocess.DEVNULL,
        )
    finally:
        if ours:
            POLICY.unlink()
