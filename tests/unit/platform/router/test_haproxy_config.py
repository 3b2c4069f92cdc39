"""HAProxy's files."""

import socket
import subprocess
from pathlib import Path

import pytest

from shipway.platform.router import haproxy_config
from shipway.platform.router.haproxy_config import BASE, Config, Files, base, pages
from shipway.platform.router.haproxy_slots import Table
from shipway.platform.router.routes import Route, Server


def table() -> Table:
    """An app with an instance that serves and one that drains, and an app with none."""
    found = Table.new()
    old, new = (
        Server(f"web.{n}", f"i{n}", address, 5000)
        for n, address in ((1, "10.0.0.1"), (2, "fd00::2"))
    )
    found.replace(
        [Route("one", ("one.x", "www.x"), (old,)), Route("off", ("off.x",), status="none")]
    )
    found.update([Route("one", ("one.x", "www.x"), (new,))])
    return found


def test_files_say_all(tmp_path: Path) -> None:
    """Slots with their addresses, who drains, and the maps."""
    config = Config(run=tmp_path, log=tmp_path / "raw")
    files = Files(config)
    assert not files.complete
    files.write_all(table())
    assert files.complete
    assert not files.outdated
    slots = (config.folder / "10-slots-0000.cfg").read_text()
    assert slots.startswith(
        "backend b1 from slots\n"
        "  use-server %[req.cook(shipway-instance)] if { var(txn.sticky) -m found }\n  server 1 10.0.0.1:5000 disabled\n  server 2 fd00::2:5000\n"
        "  server 3 127.0.0.1:1 disabled\n"
    )
    assert (tmp_path / "apps.map").read_text() == "one b1\noff H14\n"
    assert (tmp_path / "hosts.map").read_text() == "one.x one\nwww.x one\noff.x off\n"
    assert (tmp_path / "servers.map").read_text() == "1 web.1/i1\n2 web.2/i2\n"


def test_haproxy_takes_them(tmp_path: Path) -> None:
    """HAProxy itself finds no fault with the files, not even a warning."""
    config = Config(run=tmp_path, log=tmp_path / "raw")
    Files(config).write_all(table())
    environ = {
        "HAPROXY_SOCKET": str(tmp_path / "s"),
        "HAPROXY_LISTEN": "0",
        "PATH": "/usr/sbin:/usr/bin",
    }
    argv = ["haproxy", "-c", "-f", str(config.folder)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            argv, cwd=tmp_path, env=environ, stdin=listener, capture_output=True, text=True
        )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    """A switch of one app rewrites its part of the slots and one map, whatever the number of apps."""
    config = Config(run=tmp_path, log=tmp_path / "raw")
    files, slots = Files(config), Table.new()
    server = Server("web.1", "i1", "10.0.0.1", 5000)
    slots.replace([Route(f"a{n}", (f"a{n}.x",), (server,)) for n in range(500)])
    files.write_all(slots)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
    slots.update([Route("a400", ("a400.x",), (Server("web.1", "i2", "10.0.0.2", 5000),))])
    files.write(slots)
    assert slots.changed == {"servers.map"}
    files.write(slots, labels=True)
    written = {path.name for path, inode in before.items() if path.stat().st_ino != inode}
    assert written == {
        "servers.map",
        f"10-slots-{(int(slots.apps['a400'][1:]) - 1) // haproxy_config.SHARD:04}.cfg",
    }


def test_files_of_an_earlier_boot(tmp_path: Path) -> None:
    """They are not started from: an instance's address may be another's by now."""
    config = Config(run=tmp_path, log=tmp_path / "raw")
    Files(config).write_all(Table.new())
    path = config.folder / BASE
    path.write_text(path.read_text().replace("in boot ", "in boot x"))
    assert not Files(config).complete


def test_new_settings_are_noticed(tmp_path: Path) -> None:
    """Files made with other settings are outdated."""
    config = Config(run=tmp_path, log=tmp_path / "raw")
    Files(config).write_all(Table.new())
    assert Files(Config(run=tmp_path, log=tmp_path / "raw", threads=2)).outdated


def test_pages_are_one_line_each() -> None:
    """A page is a map's value: one word, and short enough for HAProxy's buffer."""
    for name, body in pages().items():
        assert name.endswith((".", ".json"))
        assert " " not in body
        assert 20 < len(body) < 8192


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few files may be open HAProxy is asked for no more connections than it can have."""
    monkeypatch.setattr(haproxy_config.resource, "getrlimit", lambda _: (1024, 4096))
    config = Config(run=Path("/r"), log=Path("/l"))
    assert f"maxconn {(4096 - 200) // 2}\n" in base(config)
