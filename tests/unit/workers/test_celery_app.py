"""Celery's settings."""

from pathlib import Path

from shipway.platform.settings import Settings
from shipway.workers.celery_app import broker_url, make_app


def test_broker_urls() -> None:
    """A unix socket is written in kombu's own way, any other URL as it is."""
    assert broker_url(Settings(data=Path("/d"))) == "redis+socket:///d/run/redis.sock"
    assert broker_url(Settings(redis_url="redis://r:6379/1")) == "redis://r:6379/1"


def test_nothing_that_loses_or_doubles_work() -> None:
    """Late acknowledgement, one message at a time, JSON alone, no results, and no killing on a lost connection."""
    conf = make_app(Settings(data=Path("/d"))).conf
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.result_backend is None
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert [queue.name for queue in conf.task_queues] == ["builds", "deploys", "host.local"]
