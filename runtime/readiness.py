"""Whether what `Engine.setup` makes is still there, told without making it again."""

import os
from pathlib import Path

from shipway.runtime.config import EngineConfig
from shipway.runtime.containers.tools import Tools
from shipway.runtime.files import atomic_write
from shipway.runtime.network import firewall

BOOT = Path("/proc/sys/kernel/random/boot_id")


def is_ready(tools: Tools, config: EngineConfig) -> bool:
    """Whether it was made in this boot, for this config, and nobody has taken it away."""
    try:
        made = _mark(tools).read_text()
    except FileNotFoundError:
        return False
    return made == _fingerprint(tools, config) and tools.network.is_up()


def note_ready(tools: Tools, config: EngineConfig) -> None:
    """Put down that all was made just now."""
    atomic_write(_mark(tools), _fingerprint(tools, config).encode(), durable=False)


def _mark(tools: Tools) -> Path:
    return tools.runtime.root.parent / "ready"


def _fingerprint(tools: Tools, config: EngineConfig) -> str:
    """What setting up depends on: the boot, the config, the host's name servers, our own rules."""
    nameservers = tools.network.resolver().nameservers
    rules = os.stat(firewall.__file__).st_mtime_ns
    return f"{BOOT.read_text()} {config} {nameservers} {rules}"
