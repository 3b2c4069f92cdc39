"""Options of run and create: swap, CPUs, disks, and how long a log grows."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from shipway.runtime.cli.running_limits import size
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import IoRate, Limits

RATES = (("read", "bps"), ("write", "bps"), ("read", "iops"), ("write", "iops"))
LOG_OPTIONS = {"max-size", "max-file"}
DRIVERS = ("k8s-file", "json-file", "local", "none")

OPTIONS = (
    click.option("--memory-swap", metavar="SIZE", help="Memory and swap together; -1 for any."),
    click.option(
        "--memory-reservation", metavar="SIZE", help="Memory left to it when it is short."
    ),
    click.option("--cpuset-cpus", metavar="LIST", help="The CPUs it may use, like 0-2,4."),
    click.option("--blkio-weight", type=int, help="Its share of a busy disk, from 10 to 1000."),
    *(
        click.option(
            f"--device-{verb}-{unit}",
            multiple=True,
            metavar="DISK:RATE",
            help=f"Most {'bytes' if unit == 'bps' else 'operations'} a second to {verb}, like /dev/sda:1m.",
        )
        for verb, unit in RATES
    ),
    click.option("--log-driver", type=click.Choice(DRIVERS), help="none keeps no log."),
    click.option(
        "--log-opt", multiple=True, metavar="NAME=VALUE", help="max-size=10m, max-file=3."
    ),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    changes: dict[str, Any] = {}
    if values["memory_swap"]:
        text = values["memory_swap"]
        changes["memory_swap"] = -1 if text == "-1" else size(text)
    if values["memory_reservation"]:
        changes["memory_reservation"] = size(values["memory_reservation"])
    if values["cpuset_cpus"]:
        changes["cpuset_cpus"] = values["cpuset_cpus"]
    if values["blkio_weight"]:
        changes["io_weight"] = values["blkio_weight"]
    rates = tuple(
        rate(text, verb, unit) for verb, unit in RATES for text in values[f"device_{verb}_{unit}"]
    )
    if rates:
        changes["io_rates"] = rates
    limits: Limits = fields["limits"]
    fields["limits"] = replace(limits, **changes)
    if values["log_driver"] == "none":
        fields["log_path"] = None
    fields.update(log_fields(values["log_opt"]))


def rate(text: str, verb: Any, unit: Any) -> IoRate:
    """A disk's limit, from Docker's notation. Raises InvalidSpec."""
    device, colon, number = text.rpartition(":")
    if not colon or not device:
        raise InvalidSpec(f"{text!r} must be a disk, a colon and a rate, like /dev/sda:1m")
    if unit == "iops" and not number.isdigit():
        raise InvalidSpec(f"{number!r} in {text!r} must be a whole number of operations")
    return IoRate(device, verb, unit, size(number))


def log_fields(given: tuple[str, ...]) -> dict[str, int]:
    """The specification's log_size and log_files. Raises InvalidSpec."""
    found: dict[str, int] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in LOG_OPTIONS:
            raise InvalidSpec(f"the log option {name!r} is not known; use max-size or max-file")
        if name == "max-size":
            found["log_size"] = size(value)
        elif not value.isdigit():
            raise InvalidSpec(f"max-file {value!r} must be a whole number")
        else:
            found["log_files"] = int(value)
    return found
