"""Processes that start warm: forked from one that has loaded their modules already.

What is loaded before a fork is shared by parent and child until one of them writes to it.
"""

import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import setproctitle

PR_SET_PDEATHSIG = 1
OURS = "shipway"
# What each of our commands will import once it runs. Loaded by name: the supervisor starts processes, it knows nothing
# of what they do.
MODULES = {
    "redis": ("shipway.platform.redis_server",),
    "router": ("shipway.platform.router.controller",),
    "host": (
        "shipway.workers.main",
        "shipway.workers.agent",
        "shipway.workers.hosts",
        "celery.apps.worker",
        "celery.concurrency.solo",
        "kombu.transport.redis",
    ),
    "worker": (
        "shipway.workers.main",
        "shipway.workers.reconcile",
        "shipway.workers.deploys",
        "celery.apps.worker",
        "celery.concurrency.thread",
        "kombu.transport.redis",
    ),
    "ssh": ("shipway.platform.ssh_server",),
    "web": ("shipway.platform.web_server", "shipway.platform.web", "gunicorn.workers.gthread"),
}


def is_ours(argv: Sequence[str]) -> bool:
    """Whether a command line is one of Shipway's own processes, which need not be executed anew."""
    return len(argv) == 2 and argv[0] == OURS and argv[1] in MODULES


def load(commands: Iterable[Sequence[str]]) -> None:
    """Import what these processes will need, before the first of them is forked.

    All of it: what the parent touches between two forks is not shared any more with those it has forked already.
    """
    for argv in commands:
        if is_ours(argv):
            for name in ("shipway.platform.cli.main", *MODULES[argv[1]]):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector would write to the shared pages


def become(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Be the process of that command line: run it in this (forked) one, then end. Never returns."""
    from shipway.platform.cli import main as cli

    code: object = 1
    try:
        close_inherited()
        setproctitle.setproctitle(
            " ".join(argv)
        )  # before the environment moves, which it finds argv by
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = list(argv)
        code = cli.run(list(argv[1:]))
    except SystemExit as end:
        code = end.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def close_inherited() -> None:
    """Close all files but the standard ones: locks and pipes of the parent's would live on in this process."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own
