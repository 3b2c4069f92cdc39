"""check: whether this machine is fit for the engine, and what would make it so."""

from dataclasses import asdict

import click

from shipway.runtime.checks import check_all, is_fit
from shipway.runtime.cli.common import configuration, print_json, say, table

UNFIT = 1


@click.command("check", epilog="Example: shipway runtime check --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def check(*, as_json: bool) -> int:
    """Look this machine over: what is ok, degraded or missing, and how to get it.

    The exit code is 0 if containers can run here, 1 if not.
    """
    findings = check_all(configuration())
    fit = is_fit(findings)
    if as_json:
        print_json({"fit": fit, "items": [asdict(each) for each in findings]})
        return 0 if fit else UNFIT
    table(("ITEM", "STATE", "FOUND"), [(each.item, each.state, each.detail) for each in findings])
    wanting = [each for each in findings if each.remedy]
    for state in ("missing", "degraded"):
        for each in (each for each in wanting if each.state == state):
            say(f"{each.item} is {state}: {each.remedy}")
    say("Containers can run here." if fit else "Containers cannot run here.")
    return 0 if fit else UNFIT


COMMANDS = (check,)
