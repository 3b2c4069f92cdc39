"""The PHP buildpack: an index.php alone, a composer app with vendored packages, and what fails."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from buildlab import BUILD_CACHE, IDS, Builder, answer
from shipway.buildpacks import processes
from shipway.buildpacks.build import BuildResult
from shipway.runtime.spec import ContainerSpec

PLAIN: dict[str, str | bytes] = {
    "index.php": "Hello from PHP <?= PHP_MAJOR_VERSION, mb_strlen('äö') ?>\n"
}
COMPOSER: dict[str, str | bytes] = {
    "composer.json": json.dumps({"require": {"php": "^8.2", "ext-intl": "*"}}),
    "vendor/autoload.php": "<?php function greet() { return 'Hello from ' . locale_get_default(); }",
    "public/index.php": "<?php require __DIR__ . '/../vendor/autoload.php';"
    " echo greet(), ' ', $_SERVER['REQUEST_URI'];",
    "public/style.css": "body {}",
    "secret.txt": "not for the web",
    "public/.env": "nor this",
}


@contextlib.contextmanager
def served(builder: Builder, result: BuildResult) -> Iterator[str]:
    """The address of the running app."""
    command = processes.started(
        builder.image(result).config, ("bash", "-c", f"exec {result.processes['web']}")
    )
    spec = ContainerSpec("php", result.image, command, {"PORT": "5000"}, IDS, cwd="/workspace")
    container = builder.engine.run(spec)
    try:
        yield f"http://{container.ip}:5000"
    finally:
        builder.engine.remove("php")


@pytest.fixture(scope="module")
def first(builder: Builder) -> BuildResult:
    """An app, built once: its PHP is at hand for the other builds."""
    return builder.build(PLAIN, cache=BUILD_CACHE / "php")


def test_plain(builder: Builder, first: BuildResult) -> None:
    """An index.php alone is an app; a change of it fetches nothing."""
    cache = BUILD_CACHE / "php"
    assert answer(builder, first) == "Hello from PHP 82"
    assert first.size < 60e6
    second = builder.build({"index.php": "changed"}, previous=first.image, cache=cache)
    assert answer(builder, second) == "changed"
    assert any("PHP of the previous build" in line for line in builder.lines)


def test_composer(builder: Builder) -> None:
    """The front controller in public/ answers for all paths; what lies beside it is not shown."""
    result = builder.build(COMPOSER, cache=BUILD_CACHE / "php")
    assert answer(builder, result).startswith("Hello from en")
    with served(builder, result) as address:
        wait(address)
        assert get(f"{address}/a/b?c=1").endswith("/a/b?c=1")
        assert get(f"{address}/style.css") == "body {}"
        assert get(f"{address}/.env") == "404"
        assert "not for the web" not in get(f"{address}/../secret.txt")
        assert "not for the web" not in get(f"{address}/secret.txt")


def wait(address: str) -> None:
    """Until the server listens."""
    import time

    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def get(address: str) -> str:
    """The page, or the number of the error."""
    try:
        with urllib.request.urlopen(address, timeout=5) as page:
            return page.read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)


def test_failures(builder: Builder, first: BuildResult) -> None:
    """Malformed composer.json, no lock file, a folder that is not there, a silent registry: each is said."""
    cache = BUILD_CACHE / "php"
    app: dict[str, str | bytes] = {"index.php": "x"}
    builder.failure(
        app | {"composer.json": '{\n"require": {,}\n}'}, previous=first.image, cache=cache
    )
    assert any("composer.json line 2, column 13: a name" in line for line in builder.lines)
    builder.failure(app, previous=first.image, cache=cache, env={"DOCUMENT_ROOT": "../etc"})
    assert any(
        "DOCUMENT_ROOT names '../etc', expected a folder of the app" in x for x in builder.lines
    )
    needs = json.dumps({"require": {"example/none": "1.0.0"}, "config": {"secure-http": False}})
    builder.failure(app | {"composer.json": needs}, previous=first.image, cache=cache)
    assert any("no composer.lock" in line for line in builder.lines)
    lock = json.dumps(
        {
            "packages": [
                {
                    "name": "example/none",
                    "version": "1.0.0",
                    "dist": {"type": "zip", "url": "http://127.0.0.1:9/none.zip"},
                }
            ],
            "packages-dev": [],
        }
    )
    builder.failure(
        app | {"composer.json": needs, "composer.lock": lock}, previous=first.image, cache=cache
    )
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
    assert any("COMPOSER_MIRROR" in line for line in builder.lines)
