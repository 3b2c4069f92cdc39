"""Secrets of containers, as files in memory: never on a disk, in a config, an argument or a log.

They stand in a tmpfs of the engine's own, in one folder per container that is bound, read-only, at
/run/secrets. There they outlive the container's end, so that it can be started again, and whoever
started it; a removal deletes them, and a reboot takes them all.
"""

import os
import shutil
from pathlib import Path

from shipway.runtime.errors import SecretsGone
from shipway.runtime.files import locked
from shipway.runtime.kernel import host, syscalls
from shipway.runtime.spec import ContainerSpec

TARGET = "/run/secrets"
# For all containers together; one container may have 512 KiB.
CAPACITY = "size=64m,nr_inodes=65536,mode=711"
NEVER_SWAPPED_SINCE = (6, 4)


class Vault:
    """The secrets of one engine's containers, below its run folder."""

    def __init__(self, run: Path) -> None:
        self.mount = run / ".secrets"

    def folder(self, container_id: str) -> Path:
        """Where a container's secrets are."""
        return self.mount / container_id

    def keep(self, spec: ContainerSpec) -> None:
        """Take in the secrets of a specification that has any. Raises SecretsGone."""
        if any(value is not None for value in spec.secrets.values()):
            self._put(spec)
        folder = self.folder(spec.id)
        gone = sorted(name for name in spec.secrets if not (folder / name).exists())
        if gone:
            raise SecretsGone(spec.id, gone)

    def _put(self, spec: ContainerSpec) -> None:
        self._ensure_mount()
        folder = self.folder(spec.id)
        self.forget(spec.id)
        folder.mkdir(mode=0o700)
        owner = (spec.ids.base + spec.uid, spec.ids.base + spec.gid)
        for name, value in spec.secrets.items():
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            with os.fdopen(fd, "wb") as file:
                file.write(value or b"")
                os.fchown(fd, *owner)
        os.chown(folder, *owner)
        folder.chmod(0o500)

    def forget(self, container_id: str) -> None:
        """Delete a container's secrets. Idempotent."""
        shutil.rmtree(self.folder(container_id), ignore_errors=True)

    def close(self) -> None:
        """Take the tmpfs away."""
        if os.path.ismount(self.mount):
            syscalls.umount(str(self.mount))
        if self.mount.is_dir():
            self.mount.rmdir()

    def _ensure_mount(self) -> None:
        if os.path.ismount(self.mount):
            return
        self.mount.mkdir(mode=0o700, exist_ok=True)
        with locked(self.mount.with_name(".secrets.lock"), discard=True):
            if not os.path.ismount(self.mount):
                swap = ",noswap" if host.kernel_version() >= NEVER_SWAPPED_SINCE else ""
                flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
                syscalls.mount("tmpfs", str(self.mount), "tmpfs", flags, CAPACITY + swap)
