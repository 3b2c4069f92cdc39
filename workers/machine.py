"""What `shipway stack:build` and `shipway down --apps` do on this machine, in a process of their own."""

import sys
from concurrent.futures import ThreadPoolExecutor

from shipway.buildpacks.errors import StackFailed
from shipway.buildpacks.stacks import ensure_stack
from shipway.platform.errors import ShipwayError
from shipway.runtime.engine import Engine
from shipway.workers.context import Context, engine_config

PARALLEL = 16  # containers stopped at the same time; they mostly wait


class StackNotBuilt(ShipwayError):
    """The stack could not be made; the message says what to do."""


def build_stack(ctx: Context) -> None:
    """Make the stack that apps are built on, unless it is there; says what it does."""
    ctx.settings.data.mkdir(parents=True, exist_ok=True)
    try:
        stack = ensure_stack(Engine(engine_config(ctx.settings)), ctx.settings.stack, say)
    except StackFailed as error:
        raise StackNotBuilt(str(error)) from None
    say(f"-----> The stack {stack.name} is ready")


def stop_apps(ctx: Context) -> None:
    """Stop every instance of this machine and take down its network; `shipway up` starts them again."""
    engine = Engine(engine_config(ctx.settings))
    found = engine.list()

    def stop(container_id: str) -> None:
        engine.stop(container_id, ctx.settings.stop_grace)
        engine.remove(container_id)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(stop, [container.id for container in found]):
            pass
    engine.teardown()
    say(
        f"Stopped {len(found)} {'instance' if len(found) == 1 else 'instances'}; `shipway up` starts them again."
    )


def say(line: str) -> None:
    """Write a line at once: a person waits for it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
