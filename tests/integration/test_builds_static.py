"""Static sites on real parts: built, served by the nginx that came along, and asked."""

import contextlib
import gzip
import http.client
import json
import time
from collections.abc import Iterator

import pytest

from buildlab import IDS, Builder
from shipway.buildpacks import processes
from shipway.buildpacks.build import BuildResult
from shipway.runtime.spec import ContainerSpec

SITE: dict[str, str | bytes] = {
    "index.html": "<h1>home</h1>" + "x" * 2000,
    "about.html": "about",
    "docs/index.html": "docs",
    "404.html": "nothing here",
    "assets/app-BX3k9aQ_.js": "x = 1",
    'a$b "q".txt': "odd",
    ".hidden": "secret",
    ".well-known/x.txt": "known",
    "_headers": '/*\n  X-Frame-Options: DENY\n/docs/*\n  Cache-Control: max-age=60\n  X-Odd: a$b"c\n',
    "_redirects": "/old/*  /new/:splat 302\n/u/:id /about.html 200\n/store id=:id /blog/:id\n"
    "/about.html /forced 301!\n/gone / 410\n/docs/ /never\n/host/:host /to/:host\n",
}


class Served:
    """A site that runs."""

    def __init__(self, ip: str) -> None:
        self._ip = ip

    def ask(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection(self._ip, 5000, timeout=5)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=named)
        answer = connection.getresponse()
        body = answer.read()
        if answer.getheader("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, answer.headers, body.decode()


@contextlib.contextmanager
def served(builder: Builder, result: BuildResult) -> Iterator[Served]:
    shell = ("bash", "-c", f"exec {result.processes['web']}")
    args = processes.started(builder.image(result).config, shell)
    spec = ContainerSpec(
        id="web", image=result.image, args=args, env={"PORT": "5000"}, ids=IDS, cwd="/workspace"
    )
    container = builder.engine.run(spec)
    try:
        deadline, pause = time.monotonic() + 20, 0.005
        site = Served(str(container.ip))
        while True:
            try:
                site.ask("/")
                break
            except OSError:
                assert time.monotonic() < deadline, "the site never answered"
                time.sleep(pause)
                pause = min(pause * 2, 0.1)
        yield site
    finally:
        builder.engine.remove("web")


@pytest.fixture(scope="module")
def first(builder: Builder) -> BuildResult:
    return builder.build(SITE, cache=builder.folder / "cache")


def test_site(builder: Builder, first: BuildResult) -> None:
    """Pages, clean paths, redirects, headers, caching and compression are as the files say."""
    with served(builder, first) as site:
        for path, status, body in (
            ("/", 200, SITE["index.html"]),
            ("/about", 200, "about"),
            ("/docs/", 200, "docs"),
            ("/nope", 404, "nothing here"),
            ("/.hidden", 404, "nothing here"),
            ("/_headers", 404, "nothing here"),
            ("/a$b%20%22q%22.txt", 200, "odd"),
            ("/.well-known/x.txt", 200, "known"),
            ("/u/7", 200, "about"),
            ("/store", 404, "nothing here"),
        ):
            assert (site.ask(path)[0], site.ask(path)[2]) == (status, body), path
        for path, status, target in (
            ("/old/a/b?q=1", 302, "/new/a/b?q=1"),
            ("/old", 302, "/new/"),
            ("/store?id=9", 301, "/blog/9"),
            ("/about.html", 301, "/forced"),
            ("/docs", 301, "/docs/"),
            ("/host/x", 301, "/to/x"),
        ):
            answer = site.ask(path)
            assert (answer[0], answer[1]["Location"]) == (status, target), path
        assert site.ask("/gone")[0] == 410
        assert site.ask("/docs/")[1]["Cache-Control"] == "max-age=60"
        assert site.ask("/docs/")[1]["X-Odd"] == 'a$b"c'
        assert site.ask("/")[1]["X-Odd"] is None
        assert site.ask("/")[1]["X-Frame-Options"] == "DENY"
        assert site.ask("/")[1]["Cache-Control"] == "public, max-age=0, must-revalidate"
        assert "immutable" in site.ask("/assets/app-BX3k9aQ_.js")[1]["Cache-Control"]
        assert site.ask("/assets/app-BX3k9aQ_.js")[1]["Content-Type"].startswith("text/javascript")
        tag = site.ask("/")[1]["ETag"]
        assert site.ask("/", If_None_Match=f'"x", {tag}')[0] == 304
        assert site.ask("/", If_None_Match='W/"0123"')[0] == 200
        assert site.ask("/u/7")[1]["ETag"] == site.ask("/about")[1]["ETag"] != tag
        small = site.ask("/", Accept_Encoding="gzip")
        assert small[1]["Content-Encoding"] == "gzip"
        assert small[2] == SITE["index.html"]


def test_change(builder: Builder, first: BuildResult) -> None:
    """A changed page has another tag though its size is the same, and nginx is not fetched again."""
    changed = SITE | {"about.html": "ABOUT"}
    second = builder.build(changed, previous=first.image, cache=builder.folder / "cache")
    assert builder.layer(second, "nginx") == builder.layer(first, "nginx")
    assert "-----> Using the nginx of the previous build" in builder.lines
    with served(builder, first) as site:
        before = site.ask("/about")
    with served(builder, second) as site:
        after = site.ask("/about", If_None_Match=before[1]["ETag"])
    assert (after[0], after[2]) == (200, "ABOUT")


def test_bundled_app_of_one_page(builder: Builder, first: BuildResult) -> None:
    """What a bundler makes of a package.json is served; its paths are answered by its one page."""
    script = "mkdir -p dist/assets && echo page > dist/index.html && echo 1 > dist/assets/a.js"
    files: dict[str, str | bytes] = {
        "package.json": json.dumps({"packageManager": "bun@1.3.0", "scripts": {"build": script}}),
        "index.html": "source",
    }
    result = builder.build(files, previous=first.image, cache=builder.folder / "cache")
    assert "-----> Node.js, Static site app detected" in builder.lines
    assert "shipway_nodejs" not in builder.run(result, "ls /layers")
    with served(builder, result) as site:
        assert site.ask("/deep/path")[2] == "page\n"
        assert site.ask("/assets/a.js")[2] == "1\n"
        assert site.ask("/package.json")[2] == "page\n" or site.ask("/package.json")[0] == 404


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"_redirects": "/a\n"}, "_redirects line 1: has no target, expected `/from /to 301`"),
        ({"static.json": "{\n,}"}, "Static.json line 2, column 1"),
        ({"static.json": '{"root": "../.."}'}, "The site's folder '../..' is outside of the app"),
        ({"static.json": '{"root": "none"}'}, "The site's folder 'none' is not there after"),
    ],
)
def test_failures(
    builder: Builder, first: BuildResult, files: dict[str, str | bytes], reason: str
) -> None:
    """What cannot be served ends with a reason."""
    more: dict[str, str | bytes] = {"index.html": "x"}
    assert (
        builder.failure({**more, **files}, previous=first.image)
        .casefold()
        .startswith(reason.casefold())
    )
