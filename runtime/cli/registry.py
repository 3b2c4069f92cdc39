"""pull, push, login, logout, build: images from elsewhere, and to there."""

import sys

import click

from shipway.runtime.cli.common import engine, say
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.images import build as builds
from shipway.runtime.images import registries
from shipway.runtime.images.references import DEFAULT_DOMAIN, parse
from shipway.runtime.images.registries import Access
from shipway.runtime.images.tools import Output

_TLS = click.option(
    "--tls-verify/--no-tls-verify",
    default=None,
    help="Whether certificates are checked; always, but on the loopback.",
)
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Say only the result.")


@click.command("pull", epilog="Example: … pull debian:13")
@click.argument("name")
@_QUIET
@_TLS
def pull(*, name: str, quiet: bool, tls_verify: bool | None) -> None:
    """Bring an image here from its registry, NAME[:TAG|@DIGEST]; damaged parts come anew."""
    wanted = parse(name)
    images = engine().images
    if not quiet:
        say(f"{wanted.digest or wanted.tag}: Pulling from {wanted.path}")
    done = registries.pull(images, name, Access.of(images, tls_verify), show(quiet))
    if not quiet:
        say(f"Digest: {done.digest}")
        status = "Downloaded newer image" if done.fresh else "Image is up to date"
        say(f"Status: {status} for {done.ref}")
    say(wanted.full)


@click.command("push", epilog="Example: … push registry.example.com/app:v1")
@click.argument("name")
@_QUIET
@_TLS
def push(*, name: str, quiet: bool, tls_verify: bool | None) -> None:
    """Send an image to the registry that its name says."""
    wanted = parse(name)
    images = engine().images
    if not quiet:
        say(f"The push refers to repository [{wanted.repository}]")
    digest, size = registries.push(images, name, Access.of(images, tls_verify), show(quiet))
    say(wanted.full if quiet else f"{wanted.tag}: digest: {digest} size: {size}")


@click.command("login", epilog="Example: … login -u me registry.example.com")
@click.argument("server", default=DEFAULT_DOMAIN)
@click.option("-u", "--username", help="Asked for if it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_TLS
def login(
    *, server: str, username: str | None, password_stdin: bool, tls_verify: bool | None
) -> None:
    """Log in to a registry; the password is asked for, so that no list of processes shows it."""
    if password_stdin and not username:
        raise InvalidSpec("--password-stdin needs --username")
    user = username or click.prompt("Username", err=True)
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, err=True)
    registries.login(server, user, password, Access.of(engine().images, tls_verify))
    say("Login Succeeded")


@click.command("logout", epilog="Example: … logout registry.example.com")
@click.argument("server", default=DEFAULT_DOMAIN)
def logout(*, server: str) -> None:
    """Forget the login at a registry."""
    found = registries.logout(server, Access.of(engine().images))
    say(f"Removing login credentials for {server}" if found else f"Not logged in to {server}")


@click.command("build", epilog="Example: … build -t app:v1 --build-arg VERSION=2 .")
@click.argument("context")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="A name for it.")
@click.option("-f", "--file", metavar="PATH", help="The Dockerfile; - is standard input.")
@click.option("--build-arg", "arguments", multiple=True, metavar="NAME=VALUE", help="For ARG.")
@click.option("--target", default="", help="The stage to end with.")
@click.option("--no-cache", is_flag=True, help="Do every step anew.")
@click.option("--pull", "fresh", is_flag=True, help="Fetch the images it begins from anew.")
@click.option("--secret", "secrets", multiple=True, metavar="id=ID,src=FILE", help="For RUN.")
@_QUIET
@_TLS
def build(
    *,
    context: str,
    tags: tuple[str, ...],
    file: str | None,
    arguments: tuple[str, ...],
    target: str,
    no_cache: bool,
    fresh: bool,
    secrets: tuple[str, ...],
    quiet: bool,
    tls_verify: bool | None,
) -> None:
    """Build an image from a Dockerfile: CONTEXT is a folder, a git URL, or - for standard input."""
    found = engine()
    pairs = [each.partition("=") for each in arguments]
    if wrong := next((name for name, equals, _ in pairs if not name or not equals), None):
        raise InvalidSpec(f"--build-arg {wrong} has no value; write NAME=VALUE")
    builder = builds.Builder(found.config, found.images, Access.of(found.images, tls_verify))
    with builds.context_of(found.images, context, file, sys.stdin.buffer) as (folder, dockerfile):
        request = builds.Request(
            folder,
            dockerfile,
            tags,
            {name: value for name, _, value in pairs},
            target,
            cached=not no_cache,
            secrets=secrets,
            pull=fresh,
        )
        image = builder.build(request, show(quiet))
    if quiet:
        say(image.id)
        return
    say(f"Successfully built {image.id.removeprefix('sha256:')[:12]}")
    for name in tags:
        say(f"Successfully tagged {parse(name).short}")


def show(quiet: bool) -> Output:
    """Where a tool's lines go: to the person as they come, or nowhere."""
    return (lambda _line: None) if quiet else say


COMMANDS = (pull, push, login, logout, build)
