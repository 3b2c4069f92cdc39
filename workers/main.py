"""`python -m shipway.workers.main worker` or `host`: the two processes that do long work.

The resident thread (reconciler or agent) comes first and needs no Redis; Celery then takes messages in the main
thread. At SIGTERM what is claimed is given back, and containers are left running.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from shipway.platform.builds import BUILDS
from shipway.platform.errors import ShipwayError
from shipway.platform.releases import DEPLOYS
from shipway.platform.settings import current
from shipway.runtime.errors import HostUnfit
from shipway.workers import machine, restack
from shipway.workers.context import Context, context

DEPLOY_THREADS = 16  # deploys at the same time; they mostly wait
RESIDENT = "reconciler"
RESIDENT_GRACE = 5.0  # seconds its pass has to come to its end
EX_UNAVAILABLE = 69
EX_USAGE = 64


def main(argv: list[str]) -> int:
    """Run the process that `argv` names; its exit code."""
    roles: dict[str, Callable[[Context], None]] = {
        "worker": run_worker,
        "host": run_host,
        "stack": machine.build_stack,
        "stack-update": restack.update,
        "stop-apps": machine.stop_apps,
    }
    if len(argv) != 1 or argv[0] not in roles:
        return _complain(f"usage: python -m shipway.workers.main {'|'.join(roles)}", EX_USAGE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        current()
        roles[argv[0]](context())
    except ShipwayError as error:
        return _complain(error.message, error.exit_code)
    except HostUnfit as error:
        return _complain(f"This machine cannot run containers: {error}", EX_UNAVAILABLE)
    return 0


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


def run_worker(ctx: Context) -> None:
    """Builds and deploys, in threads, and the reconciler."""
    from shipway.workers.reconcile import Reconciler

    resident = Reconciler(ctx)
    threading.Thread(target=resident.run, name=RESIDENT, daemon=True).start()
    threads = ctx.settings.builds + DEPLOY_THREADS
    _take_messages(ctx, [BUILDS, DEPLOYS], "threads", threads)


def run_host(ctx: Context) -> None:
    """The machine's agent, and the messages that wake it."""
    from shipway.workers.agent import Agent, hold_host

    ctx.engine  # noqa: B018 -- sets the machine up, or says what it lacks
    hold_host(ctx.settings)
    agent = Agent(ctx)
    threading.Thread(target=agent.run, name="agent", daemon=True).start()

    from shipway.workers import hosts  # Celery with it: 0.3 s that instances need not wait for
    from shipway.workers.celery_app import host_queue

    hosts.agents.append(agent)
    _take_messages(ctx, [host_queue(ctx.settings)], "solo", 1)
    agent.lay_down()


def _take_messages(ctx: Context, queues: list[str], pool: str, threads: int) -> None:
    """Be a Celery worker until SIGTERM."""
    from celery.exceptions import SecurityWarning
    from celery.signals import worker_shutting_down

    from shipway.workers.celery_app import app

    # It warns of root, which starting containers needs; JSON is all that we take.
    warnings.simplefilter("ignore", SecurityWarning)
    worker_shutting_down.connect(lambda **_: ctx.stopping.set(), weak=False)
    worker = app.Worker(
        hostname=f"{queues[0]}@{ctx.settings.host_name}",
        queues=queues,
        pool=pool,
        concurrency=threads,
        loglevel="WARNING",
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def run(argv: list[str]) -> NoReturn:
    """Run the process that `argv` names, then end this one."""
    code = main(argv)
    if code == 0:
        for thread in threading.enumerate():
            if thread.name == "reconciler":
                thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that wait for a container must not hold the end up: what they do is gone on with by the next process.
    os._exit(code)


if __name__ == "__main__":
    run(sys.argv[1:])
