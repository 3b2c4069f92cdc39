"""Builds on real parts: real stacks, real containers, real package downloads."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildlab import Builder, answer, open_builder
from shipway.buildpacks.build import BuildResult, build
from shipway.buildpacks.errors import BuildCancelled, BuildFailed, BuildTimedOut
from shipway.buildpacks.labels import CACHE_LABEL
from shipway.runtime.spec import Limits

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hello-flask"


@pytest.fixture(scope="module")
def module_builder() -> Iterator[Builder]:
    with open_builder(__name__) as builder:
        yield builder


@pytest.fixture
def builder(module_builder: Builder) -> Builder:
    shutil.rmtree(module_builder.folder / "buildpacks", ignore_errors=True)
    return module_builder


@pytest.fixture(scope="module")
def first(module_builder: Builder) -> tuple[BuildResult, list[str]]:
    """The example, built once, with its log."""
    result = module_builder.build(EXAMPLE, labels={"commit": "abc"}, ref="app/test:first")
    return result, list(module_builder.lines)


def test_example_answers(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """The example becomes an image whose web process answers."""
    result, _ = first
    assert list(result.processes) == ["web"]
    assert answer(builder, result) == "Hello from v7 on web.1!\n"


def test_log(first: tuple[BuildResult, list[str]]) -> None:
    """The log has the field's steps, in order."""
    result, lines = first
    steps = [line for line in lines if line.startswith("-----> ")]
    assert steps[:3] == [
        "-----> Building on the Debian 13 stack",
        "-----> Determining which buildpack to use for this app",
        "-----> Python app detected",
    ]
    assert steps[3].startswith("-----> Using Python 3.13.")
    assert steps[4:] == [
        "-----> Installing dependencies using 'uv pip install -r requirements.txt'",
        "-----> Discovering process types",
        "-----> Exporting the image",
    ]
    assert any(line.startswith("        + flask==") for line in lines)
    assert "       Procfile declares types -> web" in lines
    assert lines[-1] == f"       Done: {result.size / 1e6:.1f}M"
    assert set(result.phases) == {"fetch", "analyze", "container", "detect", "build", "export"}


def test_image(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """The image is the run image, the launch layers and the app, with the specification's labels."""
    image = builder.image(first[0])
    run = builder.engine.images.get(builder.stack.run_image)
    metadata = builder.metadata(first[0])
    assert image.layers[: len(run.layers)] == run.layers
    assert [layer.diff_id for layer in image.layers[len(run.layers) :]] == [
        builder.layer(first[0], "venv"),
        metadata["app"][0]["sha"],
        metadata["launcher"]["sha"],
        metadata["config"]["sha"],
    ]
    assert image.config.entrypoint == ("/cnb/process/web",)
    assert image.config.cmd == ()
    assert metadata["runImage"]["topLayer"] == run.layers[-1].diff_id
    assert image.config.working_dir == "/workspace"
    assert image.config.user == "1000:1000"
    assert image.config.labels["commit"] == "abc"
    assert image.config.labels["io.buildpacks.base.distro.name"] == "debian"
    made = json.loads(image.config.labels["io.buildpacks.build.metadata"])
    assert [item["id"] for item in made["buildpacks"]] == ["shipway/python", "shipway/procfile"]
    assert made["processes"][0]["command"][:2] == ["bash", "-c"]
    assert image.config.env["PATH"].startswith("/cnb/process:/cnb/lifecycle:/usr/")
    environment = dict(line.split("=", 1) for line in builder.run(first[0], "env").splitlines())
    assert environment["PATH"].startswith("/layers/shipway_python/venv/bin:/usr/")
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert not any(name.startswith("CNB_APP") for name in environment)


def test_reproducible(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """The same source built again from nothing is the same image."""
    again = builder.build(EXAMPLE, labels={"commit": "abc"})
    assert again.image == first[0].image


def test_code_only(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """A change of code alone runs no installation and takes the layer of before as it is."""
    source = builder.folder / "changed"
    shutil.copytree(EXAMPLE, source)
    app = source / "app.py"
    app.write_text(app.read_text().replace("Hello from", "Goodbye from"))
    result = builder.build(source, previous=first[0].image)
    assert builder.layer(result, "venv") == builder.layer(first[0], "venv")
    assert result.image != first[0].image
    assert any("requirements.txt is unchanged" in line for line in builder.lines)
    assert not any("Installing" in line for line in builder.lines)
    assert answer(builder, result) == "Goodbye from v7 on web.1!\n"


def test_compiled(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """Python finds the compiled files valid, so nothing is compiled when an app starts."""
    script = "python -v -c 'import flask' 2>&1 | grep -c 'code object from.*/layers/.*py.$' || true"
    assert builder.run(first[0], script).strip() == "0"
    script = "python -v -c 'import flask' 2>&1 | grep -c 'matches /layers/'"
    assert int(builder.run(first[0], script)) > 50


def test_a_file_with_holes_counts_as_it_is_written_out(builder: Builder) -> None:
    """It takes no disk while the build runs, and would fill this host's as a layer."""
    launch = """truncate -s 1T big
    printf '[[processes]]\\ntype = "web"\\ncommand = ["x"]\\n' > "$1/launch.toml"
    """
    catalog = builder.catalog(builder.buildpack("holes", "exit 0", launch))
    reason = builder.failure({}, catalog=catalog, disk=1 << 30)
    assert reason == "what was built has more than the build's limit of 1024 MB of disk"


def test_other_requirements(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """Other requirements make another environment, with nothing of the old one in it."""
    files = {"requirements.txt": "itsdangerous==2.2.0\n", "Procfile": "web: python -m http.server"}
    result = builder.build(files, previous=first[0].image, cache=builder.folder / "cache")
    assert builder.layer(result, "venv") != builder.layer(first[0], "venv")
    script = "ls /layers/shipway_python/venv/lib/python3*/site-packages"
    assert "itsdangerous" in builder.run(result, script)
    assert "flask" not in builder.run(result, script)
    fresh = builder.build(files)
    assert builder.layer(fresh, "venv") == builder.layer(result, "venv")


def test_without_previous_image(builder: Builder) -> None:
    """A previous image that is gone only means that everything is made anew."""
    files = {"requirements.txt": "", "Procfile": "web: x"}
    builder.build(files, previous="sha256:" + "0" * 64)
    builder.build(files, previous=builder.engine.images.get(builder.stack.run_image).digest)


PYTHON = {"requirements.txt": "", "Procfile": "web: x"}


@pytest.mark.parametrize(
    ("files", "reason", "advice"),
    [
        ({"index.cgi": ""}, "No buildpack fits this app", " requirements.txt"),
        (
            {"requirements.txt": "", "procfile": "web: x"},
            "This Python app has no Procfile, so nothing says how to start it",
            "There is a file 'procfile'; the name must be exactly Procfile.",
        ),
        (
            PYTHON | {"Procfile": "web: x\r\n\r\nhello\r\n"},
            "Procfile line 3: has no colon, expected `<type>: <command>`",
            "Procfile line 3",
        ),
        (PYTHON | {".python-version": "3.9\n"}, ".python-version asks for Python 3.9, but", "3.13"),
        (
            PYTHON | {"requirements.txt": "no-such-package-of-any-kind==1\n"},
            "Installing what requirements.txt asks for failed",
            "no-such-package-of-any-kind",
        ),
        (PYTHON | {"requirements.txt": "==\n"}, "Installing what requirements.txt", "="),
    ],
)
def test_failures(
    builder: Builder, files: dict[str, str | bytes], reason: str, advice: str
) -> None:
    """What cannot be built ends with a reason and a way on, and leaves nothing."""
    assert builder.failure(files).startswith(reason)
    assert any(advice in line for line in builder.lines)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "nothing", "Procfile"])
def test_procfile_link(builder: Builder, target: str) -> None:
    """A Procfile that is a link out of the app, to nothing or to itself is refused."""
    request = builder.request({"requirements.txt": ""})
    os.symlink(target, request.source / "Procfile")
    lines: list[str] = []
    with pytest.raises(BuildFailed, match="Procfile"):
        build(builder.engine, request, lines.append, threading.Event())
    assert "root:" not in "\n".join(lines)


def test_operator_env(builder: Builder) -> None:
    """The operator's settings and CA bundle reach the buildpacks and stay in no byte of the image."""
    secret = "https://user:hunter2@index.test"
    source = builder.buildpack(
        "env",
        "exit 0",
        """
        test "$PIP_INDEX_URL" = https://user:hunter2@index.test
        grep -q 'BEGIN CERT' "$SSL_CERT_FILE"
        printf '[[processes]]\\ntype = "web"\\ncommand = ["x"]\\n' > "$CNB_LAYERS_DIR/launch.toml"
        """,
    )
    files: dict[str, str | bytes] = {"a": ""}
    result = builder.build(files, builder.catalog(source), env={"PIP_INDEX_URL": secret})
    image = builder.image(result)
    run = builder.engine.images.get(builder.stack.run_image)
    assert "SSL_CERT_FILE" not in image.config.env
    blobs = builder.engine.images.root / "blobs" / "sha256"
    for layer in image.layers[len(run.layers) :]:
        assert b"hunter2" not in (blobs / layer.digest.removeprefix("sha256:")).read_bytes()
    assert "hunter2" not in str(image.config)


def test_index_setting(builder: Builder) -> None:
    """The operator's package index is the one that is asked, whichever tool its name is for."""
    files: dict[str, str | bytes] = {"requirements.txt": "flask\n", "Procfile": "web: x"}
    index = "http://127.0.0.1:9/simple"
    builder.failure(files, env={"PIP_INDEX_URL": index})
    assert any("127.0.0.1:9" in line for line in builder.lines)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_ends_at_once(builder: Builder, how: str) -> None:
    """A cancelled build, or one out of time, ends at once and leaves nothing."""
    source = builder.buildpack("slow", "exit 0", "echo started; sleep 60 & trap '' TERM; sleep 60")
    cancelled = threading.Event()
    started = threading.Event()

    def output(line: str) -> None:
        if line == "started":
            started.set()

    timeout = 1.0 if how == "timeout" else 60.0
    request = builder.request({"a": ""}, timeout=timeout)
    expected = BuildTimedOut if how == "timeout" else BuildCancelled
    threading.Thread(target=lambda: (started.wait(20), how == "cancel" and cancelled.set())).start()
    begin = time.monotonic()
    with pytest.raises(expected):
        build(builder.engine, request, output, cancelled, builder.catalog(source))
    assert time.monotonic() - begin < 5
    assert not request.workdir.exists()
    assert builder.engine.list() == []


def test_out_of_memory(builder: Builder) -> None:
    """A build that needs more memory than it may says so."""
    source = builder.buildpack("greedy", "exit 0", "exec tail /dev/zero")
    reason = builder.failure(
        {"a": ""}, catalog=builder.catalog(source), limits=Limits(memory=64 << 20)
    )
    assert reason == "the build ran out of memory (its limit is 64 MB)"


# A buildpack with one layer of each kind; it writes down what it finds of the build before.
KINDS = r"""
layer() { printf '[types]\n%s\n[metadata]\nround = %s\n' "$2" "$round" > "$CNB_LAYERS_DIR/$1.toml"; }
cd "$CNB_LAYERS_DIR"
round=1
if [ -f cached.toml ]; then
    round=2
    grep -q 'round = 1' cached.toml
    ! grep -q types cached.toml
    test "$(cat cached/a cached/deep/b)" = ab
    test "$(cat mixed/keep mixed/deep/keep)" = kk
    test -f launched.toml && test ! -e launched
    test ! -e built.toml && test ! -e built
    grep -q 'told = "yes"' store.toml
    test ! -e scratch
    rm mixed/deep/gone; rm -r mixed/replaced; mkdir mixed/replaced; echo n > mixed/replaced/new
    echo 2 > mixed/changed
else
    mkdir -p cached/deep mixed/deep mixed/replaced
    printf a > cached/a; printf b > cached/deep/b
    printf k | tee mixed/keep > mixed/deep/keep; echo x | tee mixed/deep/gone > mixed/replaced/old
    echo 1 > mixed/changed; ln -s keep mixed/link; ln mixed/keep mixed/hard
    mkdir launched; echo l > launched/file
fi
mkdir -p built/bin built/env.build scratch
printf '#!/bin/sh\necho tool runs\n' > built/bin/tool; chmod +x built/bin/tool
printf 'from-build-layer' > built/env.build/GIVEN
layer cached 'cache = true'
layer mixed $'launch = true\ncache = true'
layer launched 'launch = true'
layer built 'build = true'
layer scratch ''
printf '[metadata]\ntold = "yes"\n' > store.toml
mkdir -p mixed/env.launch/special
printf common > mixed/env.launch/COMMON; printf special > mixed/env.launch/special/OWN
printf '[[labels]]\nkey = "mine"\nvalue = "label"\n' > launch.toml
"""
USER = r"""
test "$(tool)" = 'tool runs'
test "$GIVEN" = from-build-layer
grep -q 'name = "thing"' "$CNB_BP_PLAN_PATH"
grep -q 'why = "because"' "$CNB_BP_PLAN_PATH"
printf '[[processes]]\ntype = "web"\ncommand = ["echo", "a b"]\n' > "$CNB_LAYERS_DIR/launch.toml"
printf '[[processes]]\ntype = "special"\ncommand = ["printenv", "OWN", "COMMON"]\n' \
    >> "$CNB_LAYERS_DIR/launch.toml"
"""
NEED = r"""printf '[[provides]]\nname = "thing"\n[[requires]]\nname = "thing"\n[requires.metadata]
why = "because"\n' > "$CNB_BUILD_PLAN_PATH" """


def test_layer_kinds(builder: Builder) -> None:
    """Each kind of layer is kept, restored and handed on as the specification's table says."""
    catalog = builder.catalog(
        builder.buildpack("kinds", "exit 0", KINDS), builder.buildpack("user", NEED, USER)
    )
    one = builder.build({"a": ""}, catalog)
    image = builder.image(one)
    assert image.config.labels["mine"] == "label"
    assert one.processes["web"] == "echo 'a b'"
    assert builder.run(one, one.processes["special"], "special").split() == ["special", "common"]
    assert builder.run(one, "ls /layers/test_kinds").split() == ["launched", "mixed"]
    cache = builder.engine.images.get(image.config.labels[CACHE_LABEL])

    two = builder.build({"a": ""}, catalog, previous=one.image)
    assert builder.layer(two, "launched") == builder.layer(one, "launched")
    assert builder.layer(two, "mixed") != builder.layer(one, "mixed")
    again = builder.engine.images.get(builder.image(two).config.labels[CACHE_LABEL])
    assert again.layers == cache.layers
    assert json.loads(again.config.labels["io.buildpacks.lifecycle.cache.metadata"])["buildpacks"][
        0
    ]["layers"]["cached"]["data"] == {"round": 2}
    found = builder.run(
        two, "cd /layers/test_kinds/mixed && find . | sort && cat changed hard link"
    )
    assert found.split() == [
        *[".", "./changed", "./deep", "./deep/keep", "./env.launch", "./env.launch/COMMON"],
        *["./env.launch/special", "./env.launch/special/OWN", "./hard", "./keep", "./link"],
        *["./replaced", "./replaced/new"],
        "2",
        "kk",
    ]


def test_the_same_images_where_ids_cannot_be_mapped(builder: Builder) -> None:
    """Layers new, restored, merged and taken from the cache folder have the same digests."""
    with open_builder(__name__, idmap="never") as other:
        found = []
        for each in (builder, other):
            fill = 'id -u > "$SHIPWAY_CACHE_DIR/seen"; cat "$SHIPWAY_CACHE_DIR/seen"; touch made'
            sources = (
                each.buildpack("kinds", "exit 0", KINDS),
                each.buildpack("user", NEED, USER + fill),
            )
            cache = each.folder / "shared-cache"
            catalog = each.catalog(*sources)
            one = each.build({"a": "", "folder/b": "b"}, catalog, cache=cache)
            two = each.build({"a": "c"}, catalog, cache=cache, previous=one.image)
            assert {path.stat().st_uid for path in (cache, cache / "seen")} == {1000}
            found.append([[layer.diff_id for layer in each.image(it).layers] for it in (one, two)])
            found[-1] += [one.image, two.image]
        assert found[0] == found[1]


HOSTILE = {
    "link for a layer": (
        'ln -s /etc "$CNB_LAYERS_DIR/evil"; printf "[types]\\nlaunch = true\\n" '
        '> "$CNB_LAYERS_DIR/evil.toml"',
        "declares the layer evil, which has no folder",
    ),
    "name of a layer": (
        'mkdir "$CNB_LAYERS_DIR/a b"; printf "[types]\\nlaunch = true\\n" '
        '> "$CNB_LAYERS_DIR/a b.toml"',
        "without a usable result",
    ),
    "whiteout names": (
        'mkdir "$CNB_LAYERS_DIR/l"; touch "$CNB_LAYERS_DIR/l/.wh.x"; '
        'printf "[types]\\nlaunch = true\\n" > "$CNB_LAYERS_DIR/l.toml"',
        ".wh.",
    ),
    "no place for the result": (
        "rm -rf /layers/config; ln -s /etc /layers/config",
        "The build cannot go on",
    ),
    "a deep tree": (
        'python3 -c \'import os\nfor i in range(3000): os.mkdir("0123456789"), os.chdir("0123456789")\''
        "; exit 3",
        "The buildpack test/hostile failed (exit 3)",
    ),
    "a deep tree that is exported": (
        'python3 -c \'import os\nfor i in range(3000): os.mkdir("0123456789"), os.chdir("0123456789")\'',
        "0123456789",
    ),
    "folders of layers taken away": ('rm -rf "$CNB_LAYERS_DIR"', "The build cannot go on"),
    "no permission": (
        "mkdir /workspace/x; touch /workspace/x/y; chmod 0 /workspace/x; exit 4",
        "exit 4",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(builder: Builder, case: str) -> None:
    """Whatever a build leaves behind, the host only fails that build, and cleans up."""
    script, reason = HOSTILE[case]
    process = (
        'printf \'[[processes]]\\ntype="w"\\ncommand=["x"]\\n\' > "$CNB_LAYERS_DIR/launch.toml"\n'
    )
    source = builder.buildpack("hostile", "exit 0", process + script)
    assert reason in builder.failure({"a": ""}, catalog=builder.catalog(source))


def test_links_in_the_app(builder: Builder) -> None:
    """Links that leave the app are kept as links; names that are not UTF-8 are kept as bytes."""
    request = builder.request(PYTHON)
    os.symlink("/etc/shadow", request.source / "outside")
    (Path(os.fsdecode(os.fsencode(request.source) + b"/\xff\n"))).touch()
    result = build(builder.engine, request, builder.lines.append, threading.Event())
    app = builder.engine.layers.path(builder.metadata(result)["app"][0]["sha"]) / "workspace"
    assert os.readlink(app / "outside") == "/etc/shadow"
    assert os.path.exists(os.fsencode(app) + b"/\xff\n")


def test_two_at_once(builder: Builder, first: tuple[BuildResult, list[str]]) -> None:
    """Builds do not disturb each other."""
    results: list[BuildResult] = []

    def one() -> None:
        request = builder.request(EXAMPLE, previous=first[0].image, labels={"commit": "abc"})
        results.append(build(builder.engine, request, lambda _: None, threading.Event()))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.image for result in results] == [first[0].image] * 3
