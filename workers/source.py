"""From a commit in an app's repository to a folder of files that a build may take."""

import os
import subprocess
from pathlib import Path

from shipway.platform.repos import Repos
from shipway.platform.repos import environment as repos_environment
from shipway.runtime.errors import InvalidArchive, InvalidTree, StoreFull
from shipway.runtime.images.layers import LayerStore
from shipway.workers.errors import SourceUnreadable

USER = 1000  # whom the files belong to, inside the container


def unpack_commit(
    layers: LayerStore, repos: Repos, app: str, commit: str, dest: Path, folder: str = ""
) -> None:
    """Put the commit's files, or those of one folder, into the new `dest`. Raises SourceUnreadable."""
    dest.mkdir(parents=True)
    os.chown(dest, USER, USER)  # the app may write beside its files, as everywhere in the field
    with subprocess.Popen(
        repos.archive(app, commit, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=repos_environment(),
    ) as git:
        assert git.stdout
        assert git.stderr
        try:
            layers.unpack(git.stdout, dest, uid=USER, gid=USER)
            while git.stdout.read(1 << 16):  # the padding behind the archive's end
                pass
        except (InvalidArchive, InvalidTree, StoreFull) as error:
            git.kill()
            complaint = git.stderr.read().decode(errors="replace").strip()
            raise SourceUnreadable(
                complaint or f"The source cannot be unpacked: {error}."
            ) from error
        complaint = git.stderr.read().decode(errors="replace").strip()
    if git.returncode:
        raise SourceUnreadable(f"git cannot read commit {commit[:8]}: {complaint}")
