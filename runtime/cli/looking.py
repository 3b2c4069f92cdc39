"""logs, stats, top, diff, cp, rotate: what containers say, use, run and have changed."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

import click

from shipway.runtime.cli.common import engine, print_json, say, table
from shipway.runtime.cli.moments import moment
from shipway.runtime.cli.running_limits import size as size_of
from shipway.runtime.engine import Engine
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.observability.logs import Line, LogReader
from shipway.runtime.observability.stats import Stats

PERIOD = 1.0  # seconds between two lines of `stats`, over which a CPU's use is measured
SHORT = 0.2  # the same for one look
STATS = ("NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
TOP = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
CLEAR = "\x1b[H\x1b[2J"
BINARY, DECIMAL = ("B", "KiB", "MiB", "GiB", "TiB"), ("B", "kB", "MB", "GB", "TB")


# -- logs ------------------------------------------------------------------------------------------


@click.command("logs", epilog="Example: … logs -f --tail 100 web")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until it ends.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@click.option("-n", "--tail", default="all", metavar="N", help="Only the last lines, or all.")
@click.option("--since", metavar="TIME", help="Only from then on: 10m, RFC 3339, unix seconds.")
@click.option("--until", metavar="TIME", help="Only before then.")
@click.argument("name")
def logs(
    *,
    name: str,
    follow: bool,
    timestamps: bool,
    tail: str,
    since: str | None,
    until: str | None,
) -> None:
    """Show what a container wrote: its stdout on stdout, its stderr on stderr."""
    first = moment(since) if since else 0
    last = moment(until) if until else None
    count = _count(tail)
    found = engine()
    container_id = found.resolve(name)
    found.rotate_logs([container_id])
    reader = found.log(container_id)
    if count is not None:
        reader.tail(count)
    elif first:
        reader.since(first)
    lines: Iterator[Line | None]
    if follow:
        lines = _until(found, container_id, reader, last)
    else:
        over = found.get(container_id).state not in ("running", "paused", "created")
        lines = reader.lines(over=over)
    _write(lines, first, last, timestamps)


def _count(text: str) -> int | None:
    """How many lines --tail asks for; as Docker, all for what is no number."""
    return int(text) if text.isdigit() else None


def _until(
    found: Engine, container_id: str, reader: LogReader, last: int | None
) -> Iterator[Line | None]:
    """Lines as they come; with `last`, no longer than until then."""
    timeout = None if last is None else max(0.0, (last - time.time_ns()) / 1e9)
    for line in found.follow(container_id, reader, timeout):
        yield line
        if line is None and last is not None and time.time_ns() >= last:
            return


def _write(lines: Iterator[Line | None], first: int, last: int | None, timestamps: bool) -> None:
    streams: dict[str, BinaryIO] = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    current = streams["stdout"]
    try:
        for line in lines:
            if line is None:
                current.flush()
                continue
            if first or last is not None:
                at = line.time
                if at < first:
                    continue
                if last is not None and at > last:
                    return
            stream = streams[line.stream]
            if stream is not current:
                current.flush()  # the order of the two, where they go to one terminal
                current = stream
            stream.write(b"%b %b" % (_stamp(line.time), line.data) if timestamps else line.data)
    finally:
        current.flush()


def _stamp(time_ns: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, as Docker shows it."""
    return b"%b.%09dZ" % (_seconds(time_ns // 10**9), time_ns % 10**9)


@lru_cache(maxsize=8)
def _seconds(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@click.command("rotate", epilog="Example: … rotate --size 10m --keep 3")
@click.option("--size", metavar="SIZE", help="From this size on, in place of the container's own.")
@click.option("--keep", type=click.IntRange(0, 1000), help="So many older files stay.")
@click.argument("names", nargs=-1)
def rotate(*, names: tuple[str, ...], size: str | None, keep: int | None) -> None:
    """Set aside the logs that have grown; of all containers, if none is named. For cron."""
    found = engine()
    ids = [found.resolve(name) for name in names] or None
    for container_id in found.rotate_logs(ids, size_of(size) if size else None, keep):
        say(container_id)


# -- stats -----------------------------------------------------------------------------------------


@click.command("stats", epilog="Example: … stats --no-stream --json")
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that do not run.")
@click.option("--no-stream", is_flag=True, help="Only once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts: a list a look.")
@click.argument("names", nargs=-1)
def stats(*, names: tuple[str, ...], show_all: bool, no_stream: bool, as_json: bool) -> None:
    """Show what containers use, each second until interrupted."""
    found = engine()
    named = [found.resolve(name) for name in names]
    before = found.stats(named or _ids(found, show_all=False))
    while True:
        time.sleep(SHORT if no_stream else PERIOD)  # what is measured is the use over that time
        found.rotate_logs()
        ids = named or _ids(found, show_all=show_all)
        now = found.stats(ids)
        rows = [(each, now.get(each), _cpu(before.get(each), now.get(each))) for each in ids]
        if as_json:
            print_json([_as_json(*row) for row in rows])
        else:
            if not no_stream and sys.stdout.isatty():
                click.echo(CLEAR, nl=False)
            table(STATS, [_row(*row) for row in rows])
        if no_stream:
            return
        before = now


def _ids(found: Engine, show_all: bool) -> list[str]:
    running = ("running", "paused")
    return [each.id for each in found.list() if show_all or each.state in running]


def _cpu(before: Stats | None, now: Stats | None) -> float:
    """Percent of one CPU that was used between two looks: of two CPUs 200 at most."""
    if before is None or now is None or now.at <= before.at:
        return 0.0
    return max(0.0, (now.cpu_usec - before.cpu_usec) / (now.at - before.at) / 1e4)


def _row(container_id: str, now: Stats | None, cpu: float) -> list[str]:
    if now is None:
        return [container_id, "0.00%", "0B / 0B", "0.00%", "0B / 0B", "0B / 0B", "0"]
    return [
        container_id,
        f"{cpu:.2f}%",
        f"{amount(now.memory)} / {amount(now.memory_limit)}",
        f"{100 * now.memory / now.memory_limit:.2f}%",
        f"{amount(now.net_rx, decimal=True)} / {amount(now.net_tx, decimal=True)}",
        f"{amount(now.io_read, decimal=True)} / {amount(now.io_write, decimal=True)}",
        str(now.pids),
    ]


def _as_json(container_id: str, now: Stats | None, cpu: float) -> dict[str, Any]:
    values = asdict(now or Stats(0, 0, 0))
    del values["at"]
    return {"id": container_id, "running": now is not None, "cpu_percent": round(cpu, 2), **values}


def amount(count: int, decimal: bool = False) -> str:
    """Bytes as Docker shows them: 1.5MiB, or 1.57MB of disks and networks."""
    base, units = (1000.0, DECIMAL) if decimal else (1024.0, BINARY)
    number, unit = float(count), 0
    while number >= base and unit < len(units) - 1:
        number /= base
        unit += 1
    return f"{number:.{3 if decimal else 4}g}{units[unit]}"


# -- top, diff -------------------------------------------------------------------------------------


@click.command("top", epilog="Example: … top web")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.argument("name")
def top(*, name: str, as_json: bool) -> None:
    """Show the processes of a container, with the machine's numbers of processes and users."""
    found = engine()
    processes = found.top(found.resolve(name))
    if as_json:
        print_json([asdict(each) for each in processes])
        return
    rows = []
    for each in processes:
        started = datetime.fromtimestamp(each.started_at).astimezone()
        young = time.time() - each.started_at < 86400
        minutes, seconds = divmod(int(each.cpu), 60)
        rows.append(
            (
                each.uid,
                each.pid,
                each.ppid,
                each.share,
                started.strftime("%H:%M" if young else "%b%d"),
                each.terminal,
                f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}",
                each.command,
            )
        )
    table(TOP, rows)


@click.command("diff", epilog="Example: … diff web")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.argument("name")
def diff(*, name: str, as_json: bool) -> None:
    """Show which paths a container has added (A), changed (C) and deleted (D)."""
    found = engine()
    changes = found.diff(found.resolve(name))
    if as_json:
        print_json([asdict(each) for each in changes])
        return
    for each in changes:
        say(f"{each.kind} {each.path}")


# -- cp --------------------------------------------------------------------------------------------


@click.command("cp", epilog="Example: … cp web:/var/log/app.log .")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Follow a link that SOURCE is.")
@click.option("-a", "--archive", "keep", is_flag=True, help="Keep the numbers of owners.")
@click.option("-q", "--quiet", is_flag=True, help="For Docker's sake: no progress is shown.")
@click.argument("source")
@click.argument("destination")
def cp(*, source: str, destination: str, follow: bool, keep: bool, quiet: bool) -> None:
    """Copy files between a container (NAME:PATH) and the machine; - is a tar on stdin or stdout."""
    from_name, from_path = _split(source)
    to_name, to_path = _split(destination)
    if bool(from_name) == bool(to_name):
        raise InvalidSpec("one of SOURCE and DESTINATION must be in a container, like web:/path")
    found = engine()
    interior = found.interior(found.resolve(from_name or to_name))
    if from_name and to_path == "-":
        if sys.stdout.isatty():
            raise InvalidSpec("a tar is not for a terminal; send the output to a file or a pipe")
        interior.pack(from_path, sys.stdout.buffer.write, follow)
        sys.stdout.buffer.flush()
    elif to_name and from_path == "-":
        interior.unpack(sys.stdin.buffer, to_path)
    elif from_name:
        interior.copy_out(from_path, _absolute(to_path), follow, keep)
    else:
        interior.copy_in(_absolute(from_path), to_path, follow, keep)


def _split(text: str) -> tuple[str, str]:
    """A container's name and a path in it; no name for a path of the machine (./a:b, /a:b, a)."""
    name, colon, path = text.partition(":")
    if not colon or text.startswith((".", "/")):
        return "", text
    if not name or not path:
        raise InvalidSpec(f"{text!r} must be a container's name, a colon and a path, like web:/tmp")
    return name, path


def _absolute(path: str) -> str:
    """From the root on, with the end that tells a folder or its content kept."""
    if not path:
        raise InvalidSpec("a path must not be empty")
    end = "/." if path.endswith("/.") or path == "." else "/" if path.endswith("/") else ""
    return os.path.abspath(path).rstrip("/") + end or "/"


COMMANDS = (logs, stats, top, diff, cp, rotate)
