"""Options of run and create: how much of the machine the container may use."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import Limits

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

OPTIONS = (
    click.option("-m", "--memory", metavar="SIZE", help="Memory limit, like 256m or 1g."),
    click.option("-c", "--cpu-shares", type=int, help="Weight among containers; 1024 is usual."),
    click.option("--cpus", type=float, help="CPU time limit, in whole CPUs."),
    click.option("--pids-limit", type=int, help="Most processes and threads; -1 for no limit."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    limits: Limits = fields["limits"]
    if values["memory"]:
        limits = replace(limits, memory=size(values["memory"]))
    if values["cpu_shares"]:
        limits = replace(limits, cpu_shares=values["cpu_shares"])
    if values["cpus"]:
        limits = replace(limits, cpus=values["cpus"])
    if values["pids_limit"] is not None and values["pids_limit"] > 0:
        limits = replace(limits, pids=values["pids_limit"])
    fields["limits"] = limits


def size(text: str) -> int:
    """Bytes, from Docker's notation: a number and b, k, m, g or t. Raises InvalidSpec."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec(f"{text!r} is no size; write a number and b, k, m or g, like 256m")
    return int(float(match[1]) * UNITS[match[2].lower()])
