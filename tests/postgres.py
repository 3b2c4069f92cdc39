"""A PostgreSQL server for tests of what must hold there as on SQLite."""

import os
import pwd
import shutil
import signal as signals
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import clean_environ, free_port


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of our own; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
    account = pwd.getpwnam("postgres")
    home = folder / "pg"
    home.mkdir()
    os.chown(home, account.pw_uid, account.pw_gid)
    folder.chmod(0o755)
    port = free_port()
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
    environ = clean_environ(LC_ALL="C.UTF-8")
    subprocess.run(
        [*as_postgres, str(programs / "initdb"), "-D", str(home / "d"), "-A", "trust", "-N"],
        check=True,
        capture_output=True,
        env=environ,
        cwd="/",
    )
    options = ["-D", str(home / "d"), "-p", str(port), "-k", str(home), "-h", "127.0.0.1", "-F"]
    server = subprocess.Popen(
        [*as_postgres, str(programs / "postgres"), *options],
        env=environ,
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    for line in server.stderr:
        if "ready to accept connections" in line:
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signals.SIGINT)  # a fast end: connections are cut
        server.wait(20)
