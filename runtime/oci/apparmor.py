"""The AppArmor profile of containers, on hosts whose kernel has AppArmor; elsewhere nothing of it."""

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from shipway.runtime.commands import COMMAND_TIMEOUT, PATH
from shipway.runtime.errors import HostUnfit

ENABLED = Path("/sys/module/apparmor/parameters/enabled")
LOADED = Path("/sys/kernel/security/apparmor/profiles")
TEXT = Path(__file__).parent / "apparmor.profile"
INSTALL_REMEDY = "install Debian's package apparmor, or start the kernel with apparmor=0"


@cache
def profile_name() -> str | None:
    """The profile that containers of this host get; None where the kernel has no AppArmor."""
    return name_of(TEXT.read_text()) if is_enabled() else None


def is_enabled(enabled: Path = ENABLED) -> bool:
    """Whether the running kernel enforces AppArmor profiles."""
    try:
        return enabled.read_text().strip() == "Y"
    except OSError:
        return False


def name_of(text: str) -> str:
    """A name that changes with the text, so that an upgrade's profile is loaded beside the old."""
    return f"shipway-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_loaded(name: str, loaded: Path = LOADED) -> bool:
    """Whether the kernel knows the profile. Its list has lines such as `name (enforce)`."""
    try:
        lines = loaded.read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{name} (") for line in lines)


def load() -> None:
    """Have the kernel know the profile, if it has AppArmor. Idempotent. HostUnfit."""
    name = profile_name()
    if name is None or is_loaded(name):
        return
    parser = shutil.which("apparmor_parser", path=PATH)
    if parser is None:
        raise HostUnfit("the kernel enforces AppArmor, but has no profile", INSTALL_REMEDY)
    done = subprocess.run(
        [parser, "--replace", "--skip-cache"],
        input=TEXT.read_text().replace("NAME", name),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
    )
    if done.returncode != 0:
        raise HostUnfit(
            f"apparmor_parser refuses our profile ({done.stderr.strip()})", "report this, please"
        )
