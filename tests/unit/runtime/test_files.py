"""Atomic files and locks."""

import threading
from pathlib import Path

from shipway.runtime.files import atomic_write, locked


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new content is there with its mode, and no temporary file is."""
    path = tmp_path / "state"
    for data in (b"one", b"two"):
        atomic_write(path, data, mode=0o640)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_discarded_lock_still_excludes(tmp_path: Path) -> None:
    """Threads that wait for a lock while its file is deleted never hold it together."""
    path, inside, most = tmp_path / "lock", [0], [0]

    def work() -> None:
        for _ in range(50):
            with locked(path, discard=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not path.exists()
