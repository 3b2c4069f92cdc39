"""Signals between processes, over Redis: hints that something in SQL has changed, and nothing more.

A signal may be lost, doubled or late; whoever waits looks into SQL again after `wait` returns, whatever it returned.
"""

import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import redis

log = logging.getLogger(__name__)

PREFIX = "shipway:"
# With Redis gone a waiter looks again this often; the first looks are the quickest.
BLIND_WAIT = 0.25


def app_topic(app_id: int) -> str:
    """Something about the app's builds, releases or instances has changed."""
    return f"app:{app_id}"


def output_topic(stream: str) -> str:
    """A build or deploy has said something more, or has ended."""
    return f"output:{stream}"


ROUTES = "routes"  # some app's routes are wanted otherwise
ROUTED = "routed"  # the router has done some app's routes


def host_topic(name: str) -> str:
    """The instances wanted on a host have changed."""
    return f"host:{name}"


class Signals:
    """Publishes and awaits signals. Never raises for Redis being down."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url, socket_connect_timeout=1, socket_timeout=5, health_check_interval=15
        )

    def send(self, topics: Iterable[str]) -> None:
        """Tell everybody who waits on one of `topics`."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            for topic in topics:
                pipe.publish(PREFIX + topic, b"")
            pipe.execute()
        except redis.RedisError as error:
            log.debug("signal not sent: %s", error)

    def alive(self) -> bool:
        """Whether Redis answers."""
        with contextlib.suppress(redis.RedisError):
            return bool(self._redis.ping())
        return False

    @contextlib.contextmanager
    def listen(self, *topics: str) -> Iterator["Listener"]:
        """Listen to `topics` from now on; look into SQL after entering, then `wait`."""
        listener = Listener(self._redis, [PREFIX + topic for topic in topics])
        try:
            yield listener
        finally:
            listener.close()

    def push_task(self, queue: str, task: str, args: list[Any]) -> None:
        """Put a task into Celery's queue (message protocol 2). Raises redis.RedisError.

        Written out here since importing Celery costs each process of the platform 20 MB and 0.3 s, for one LPUSH.
        Format: docs.celeryq.dev, "Message Protocol", and kombu's virtual transport envelope.
        """
        self._redis.lpush(queue, json.dumps(_message(queue, task, args)))


def _message(queue: str, task: str, args: list[Any]) -> dict[str, Any]:
    task_id = str(uuid.uuid4())
    embed: dict[str, None] = {
        "callbacks": None,
        "errbacks": None,
        "chain": None,
        "chord": None,
    }
    body = json.dumps([args, {}, embed]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "ignore_result": True,
            "timelimit": [None, None],
            "argsrepr": repr(tuple(args)),
            "kwargsrepr": "{}",
            "origin": "shipway",
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


class Listener:
    """One subscription; made by `Signals.listen`."""

    def __init__(self, client: "redis.Redis", channels: list[str]) -> None:
        self._client = client
        self._channels = channels
        self._pubsub: Any = None
        self._subscribe()

    def _subscribe(self) -> bool:
        try:
            self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            self._pubsub.subscribe(*self._channels)
        except redis.RedisError:
            self.close()
            return False
        return True

    def wait(self, timeout: float) -> bool:
        """Return True on a signal, False after `timeout` seconds at most (sooner with Redis down)."""
        if self._pubsub is None and not self._subscribe():
            time.sleep(min(timeout, BLIND_WAIT))
            return False
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left) is not None:
                    self._drain()
                    return True
        except redis.RedisError:
            self.close()
        return False

    def fileno(self) -> int | None:
        """What becomes readable on a signal, for waiting on several things at once; None while Redis is down.

        Call `wait` when it is readable.
        """
        connection = getattr(self._pubsub, "connection", None)
        if connection is None and self._subscribe():
            connection = self._pubsub.connection
        sock = getattr(connection, "_sock", None)
        return sock.fileno() if sock is not None else None

    def _drain(self) -> None:
        """Take all that has already come: one look into SQL answers them together."""
        while self._pubsub.get_message(timeout=0) is not None:
            pass

    def close(self) -> None:
        """Stop listening."""
        if self._pubsub is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._pubsub.close()
            self._pubsub = None
