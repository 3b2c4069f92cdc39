"""The task `shipway.converge`: what is wanted of this machine has changed. It wakes the agent, which then looks."""

from shipway.workers.agent import Agent
from shipway.workers.celery_app import app as celery

agents: list[Agent] = []  # the process's one, once it runs


@celery.task(name="shipway.converge")  # type: ignore[untyped-decorator]
def converge() -> None:
    """Have the agent look at once."""
    for agent in agents:
        agent.poke()
