"""`shipway runtime`: the engine's verbs, under Docker's names and with Docker's exit codes.

Each file beside this one holds a few verbs; one is imported only when a verb of it is used.
"""

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from shipway.runtime.cli.common import Session
from shipway.runtime.errors import ProgramNotExecutable, ProgramNotFound, RuntimeFailure

# Docker's: the engine failed before the container's program ran; any other verb failed.
ENGINE_FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
FAILED = 1
EX_USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

VERBS = {
    "check": "checking",
    "info": "host",
    "network": "networks",
    "port": "networks",
    "version": "host",
    "images": "images",
    "history": "images",
    "tag": "images",
    "rmi": "images",
    "prune": "images",
    "import": "archives",
    "export": "archives",
    "save": "archives",
    "load": "archives",
    "commit": "archives",
    "pull": "registry",
    "push": "registry",
    "login": "registry",
    "logout": "registry",
    "build": "registry",
    "run": "running",
    "create": "running",
    "start": "running",
    "attach": "running",
    "exec": "running",
    "stop": "ending",
    "restart": "ending",
    "kill": "ending",
    "pause": "ending",
    "unpause": "ending",
    "wait": "ending",
    "rm": "ending",
    "inspect": "inspecting",
    "events": "happening",
    "ps": "listing",
    "logs": "looking",
    "rotate": "looking",
    "stats": "looking",
    "top": "looking",
    "diff": "looking",
    "cp": "looking",
    "reap": "reaping",
}
# What the monitor runs at the end of a container; see reaper.py.
HIDDEN = {"reap"}
STARTING = {"run", "create", "exec"}


class Verbs(click.Group):
    """The verbs, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted(VERBS.keys() - HIDDEN)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb of that name."""
        if name not in VERBS:
            return None
        module = importlib.import_module(f"shipway.runtime.cli.{VERBS[name]}")
        found: click.Command = next(each for each in module.COMMANDS if each.name == name)
        return found


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: shipway runtime run --rm stack/debian-13:run echo hello",
)
@click.option("--root", metavar="DIR", help="The engine's data folder.")
@click.pass_context
def cli(ctx: click.Context, *, root: str | None) -> None:
    """Shipway's container engine: containers and images of this machine, without a daemon."""
    ctx.obj = Session(root)


def run(argv: list[str], prog: str = "shipway runtime") -> int:
    """Run a command line; its exit code. Errors are one line on stderr."""
    failed = ENGINE_FAILED if STARTING & set(argv[:3]) else FAILED
    try:
        code: Any = cli.main(argv, prog_name=prog, standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else prog
        return _fail(f"{error.format_message()} See `{where} --help`.", _usage_code(failed))
    except click.ClickException as error:
        return _fail(error.format_message(), failed)
    except RuntimeFailure as error:
        return _fail(str(error), _failure_code(error, failed))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed has no reader
        return BROKEN_PIPE
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", failed)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _failure_code(error: RuntimeFailure, failed: int) -> int:
    if failed != ENGINE_FAILED:
        return failed
    if isinstance(error, ProgramNotFound):
        return NOT_FOUND
    return NOT_EXECUTABLE if isinstance(error, ProgramNotExecutable) else failed


def _usage_code(failed: int) -> int:
    return failed if failed == ENGINE_FAILED else EX_USAGE


def _fail(message: str, code: int) -> int:
    click.echo(f"shipway runtime: {message}", err=True)
    return code


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
