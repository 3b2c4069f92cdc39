"""Celery on Redis, set so that losing or doubling a message does no harm and costs little.

A message only says "look into the database": SQL holds what is to be done, a claim there decides who does it
(`claims.py`), and `reconcile.py` finds what no message told of. So there is no result backend, no beat, no chain.
"""

from celery import Celery
from kombu.entity import Queue

from shipway.platform.builds import BUILDS
from shipway.platform.releases import DEPLOYS
from shipway.platform.settings import Settings, current

# Redis gives a message that was taken and not acknowledged to another worker after this long (seconds). Longer than any
# build, since a second copy of a task that still runs is of no use; what a dead worker held is found by its lease.
VISIBILITY = 7200


def broker_url(settings: Settings) -> str:
    """The Redis URL in the form that kombu wants: it has a scheme of its own for unix sockets."""
    url = settings.redis
    return "redis+socket://" + url.removeprefix("unix://") if url.startswith("unix://") else url


def host_queue(settings: Settings) -> str:
    """The queue of this machine's host process."""
    return f"host.{settings.host_name}"


def make_app(settings: Settings) -> Celery:
    """The Celery app; tasks are added by the modules that import it."""
    app = Celery("shipway", broker=broker_url(settings), set_as_current=True)
    app.conf.update(
        task_queues=[Queue(name) for name in (BUILDS, DEPLOYS, host_queue(settings))],  # type: ignore[no-untyped-call]
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        # On a lost connection running tasks go on: they are held by their leases, not by the broker.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY,
            "socket_connect_timeout": 2,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "priority_steps": [0],  # one list per queue: events.py pushes to it
            "fanout_prefix": True,
            "fanout_patterns": True,
        },
        broker_pool_limit=2,
        # What costs memory, wake-ups or messages and serves nobody here:
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_detect_quorum_queues=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_proc_alive_timeout=10,
    )
    return app


app = make_app(current())
