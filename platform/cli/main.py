"""The `shipway` command: Heroku's and Dokku's commands under their names, and those that run the platform itself.

Each command is a thin shell around one address of the API; see the other files of this folder. This module and those import next
to nothing, so that a command starts at once.
"""

import os
import sys
from typing import Any, NoReturn

import click

from shipway.platform.cli import (
    apps,
    builds,
    config,
    local,
    login,
    people,
    ps,
    routing,
    sources,
)
from shipway.platform.cli.common import Session, progress
from shipway.platform.errors import ShipwayError

EX_USAGE = 2
EX_SOFTWARE = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

# Other names that people know a command by.
ALIASES = {
    "create": "apps:create",
    "destroy": "apps:destroy",
    "info": "apps:info",
    "scale": "ps:scale",
    "restart": "ps:restart",
    "rollback": "releases:rollback",
    "apps:list": "apps",
    "builds:list": "builds",
    "buildpacks:list": "buildpacks",
    "builds:report": "builds:settings",
    "git:from-archive": "deploy:archive",
    "config:show": "config",
    "ps:report": "ps",
    "domains:report": "domains",
    "ssh-keys:add": "keys:add",
}


class Commands(click.Group):
    """The group of all commands."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by its name or one of its other names."""
        return super().get_command(ctx, ALIASES.get(name, name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command, or an error that says which one may have been meant."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from difflib import get_close_matches

            close = get_close_matches(args[0], [*self.commands, *ALIASES], n=3)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog="Example: shipway apps:create hello && git push shipway main",
)
@click.option("--over-ssh", is_flag=True, hidden=True)
@click.option("--debug", is_flag=True, help="Show where an unexpected error came from.")
@click.option("--url", envvar="SHIPWAY_URL", default="", help="The server, of those logged into.")
@click.option("--token", envvar="SHIPWAY_TOKEN", default="", hidden=True)
@click.option("--version", is_flag=True, help="Show the version.")
@click.pass_context
def cli(
    ctx: click.Context, *, over_ssh: bool, debug: bool, url: str, token: str, version: bool
) -> None:
    """Shipway: git push, and the app is live."""
    ctx.obj = Session(over_ssh=over_ssh, debug=debug, url=url, token=token)
    if version:
        from importlib.metadata import version as version_of

        click.echo(f"shipway {version_of('shipway')}")
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command("help", epilog="Example: shipway help ps:scale")
@click.argument("command", required=False)
@click.pass_context
def show_help(ctx: click.Context, command: str | None) -> None:
    """Show help on a command, or all commands."""
    root = ctx.parent
    assert root is not None
    if command is None:
        click.echo(root.get_help())
        return
    name, found, _ = cli.resolve_command(root, [command])
    assert found is not None
    with click.Context(found, info_name=name, parent=root) as inner:
        click.echo(found.get_help(inner))


for _module in (apps, routing, ps, builds, sources, config, people, login, local):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def run(argv: list[str]) -> int:
    """Run a command line; its exit code. Errors are one line on stderr."""
    debug = "--debug" in argv[:3] and "--over-ssh" not in argv
    try:
        _check_ssh_options(argv)
        code: Any = cli.main(argv, prog_name="shipway", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        where = f"{error.ctx.command_path} --help" if error.ctx else "shipway --help"
        return _fail(f"{error.format_message()} See `{where}`.", EX_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ShipwayError as error:
        return _fail(error.message, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed has no reader
        return BROKEN_PIPE
    except Exception as error:  # a fault of ours; a person is told no more than that
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(
            f"This is a fault of Shipway ({what}); `shipway --debug …` shows more.", EX_SOFTWARE
        )
    return code if isinstance(code, int) else 0


def _check_ssh_options(argv: list[str]) -> None:
    # What a person sends over SSH stands behind --over-ssh; no option of theirs may lead our token elsewhere.
    if argv[:1] == ["--over-ssh"] and argv[1:2] and argv[1].startswith("-"):
        if argv[1] not in ("-h", "--help", "--version"):
            raise click.UsageError(f"{argv[1]} cannot be used over SSH.")


def _fail(message: str, code: int) -> int:
    progress(f" !     {message}")
    return code


def main() -> NoReturn:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


if __name__ == "__main__":
    main()
