"""What can be seen of containers from outside: what they use, and their logs."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.containers.container import Files, Observer, open_pidfd
from shipway.runtime.containers.tools import Tools
from shipway.runtime.errors import NoLog, NoSuchContainer, RuntimeFailure
from shipway.runtime.files import locked
from shipway.runtime.network.counters import read_traffic
from shipway.runtime.observability import rotation
from shipway.runtime.observability.logs import Line, LogReader
from shipway.runtime.observability.stats import Stats, read_stats


@dataclass(frozen=True)
class Rotation:
    """When a log is set aside and how many older files are kept; None is as the container was made."""

    size: int | None
    keep: int | None
    locks: Path


def log(files: Files) -> LogReader:
    """A reader of the container's log. Raises NoSuchContainer, NoLog."""
    path = files.read_record().log_path
    if path is None:
        raise NoLog(files.id)
    return LogReader(Path(path))


def stats(tools: Tools, container_ids: Sequence[str]) -> dict[str, Stats]:
    """What the containers use now; those that are gone are left out."""
    ports = read_traffic(f"{tools.network.bridge}-")
    traffic = {
        owner: ports[name]
        for address, owner in tools.pool.leases().items()
        if (name := tools.network.port_name(address)) in ports
    }
    return read_stats(tools.cgroups, container_ids, traffic)


def follow(
    observer: Observer, files: Files, reader: LogReader, timeout: float | None
) -> Iterator[Line | None]:
    """The log's lines as they come, until the container's monitor has ended."""
    fd = open_pidfd(observer.monitor_pid(files))
    try:
        yield from reader.follow(fd, timeout)
    finally:
        if fd is not None:
            os.close(fd)


def rotate_all(observer: Observer, all_files: Sequence[Files], wanted: Rotation) -> list[str]:
    """Set aside the logs of those whose time has come; their ids. Raises the first failure at the end."""
    done, failures = [], []
    for files in all_files:
        try:
            if rotate(observer, files, wanted):
                done.append(files.id)
        except RuntimeFailure as error:
            failures.append(error)
        except OSError as error:  # a full or read-only disk, a folder that is gone
            failures.append(RuntimeFailure(f"the log of {files.id} is not rotated: {error}"))
    if failures:
        raise failures[0]
    return done


def rotate(observer: Observer, files: Files, wanted: Rotation) -> bool:
    """Set the container's log aside if it is time to; whether it was done."""
    try:
        record = files.read_record()
    except NoSuchContainer:
        return False
    size = record.log_size if wanted.size is None else wanted.size
    keep = record.log_files - 1 if wanted.keep is None else wanted.keep
    if not record.log_path or not rotation.is_due(Path(record.log_path), size):
        return False
    with locked(wanted.locks / f".log-{files.id}", discard=True):
        fd = open_pidfd(observer.monitor_pid(files))
        if fd is None:
            return False  # it has ended, and its log grows no more
        try:
            path = Path(record.log_path)
            return rotation.is_due(path, size) and rotation.rotate(path, files.control, fd, keep)
        finally:
            os.close(fd)
