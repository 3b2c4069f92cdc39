"""`shipway web`: gunicorn in this process, one worker with threads.

One worker is enough for what a person, git and a few followers ask, and costs the memory of one. Threads are made as
they are needed: most are held by those who watch something live.
"""

import logging
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # it has none

from shipway.platform.settings import Settings
from shipway.platform.warm import die_with_parent

# Places to watch something live (watch.py, api_streams.py), and some for all that ends by itself, pushes among it.
# Not summed up from there: this module is all that gunicorn's first process, which only waits, has to load.
THREADS = 20 + 40 + 24
GRACE = 3  # seconds that requests have to end when the server is stopped; followers connect again


class Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn with our settings and no command line."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Give gunicorn what it shall know."""
        for key, value in options(self._settings).items():
            self.cfg.set(key, value)

    def load(self) -> Any:
        """The WSGI app, made in the worker."""
        from shipway.platform.web import create_app

        return create_app(self._settings)


def options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's settings."""
    return {
        "bind": [f"{settings.listen}:{settings.web_port}"],
        "worker_class": "gthread",
        "workers": 1,
        "threads": THREADS,
        # The worker itself beats, whatever its threads do: streams and pushes may take as long as they need.
        "timeout": 30,
        "graceful_timeout": GRACE,
        "keepalive": 5,
        "limit_request_field_size": 32_768,  # cursors of logs with many files
        "limit_request_line": 8190,
        "worker_tmp_dir": "/dev/shm",
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
        "proc_name": "shipway-web",
        # Else the worker of a killed master would hold the port until it notices.
        "post_fork": lambda _server, _worker: die_with_parent(),
    }


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    Server(settings).run()
