"""Buildpacks of strangers: from the app, from git, from an archive, from a registry; classic ones too."""

import io
import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import imagelab
from buildlab import Builder
from networklab import machine_beyond
from shipway.buildpacks import catalog as catalogs
from shipway.buildpacks.lifecycle.order import Member

Files = dict[str, str | bytes]
BUILD = r"""#!/bin/bash
echo "built by $(basename "$(dirname "$CNB_BUILDPACK_DIR")") with ${GIVEN:-nothing}"
printf '[[processes]]\ntype = "web"\ncommand = ["x"]\n' > "$CNB_LAYERS_DIR/launch.toml"
"""
PASS = "#!/bin/sh\nexit 0\n"


def buildpack(id_: str, build: str = BUILD, below: str = "", more: str = "") -> Files:
    """The files of a small buildpack."""
    head = f'api = "0.10"\n[buildpack]\nid = "{id_}"\nversion = "1.0.0"\n{more}'
    files = {"buildpack.toml": head, "bin/detect": PASS, "bin/build": build}
    return {f"{below}{name}": text for name, text in files.items()}


def put(folder: Path, files: Files) -> Path:
    """Write files; those in bin/ can be run."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if path.parent.name == "bin":
            path.chmod(0o755)
    return folder


def run(builder: Builder, tmp_path: Path, files: Files, **changes: object) -> list[str]:
    """The lines of a build."""
    builder.build(put(tmp_path / "app", files), **changes)  # type: ignore[arg-type]
    return builder.lines


def fail(builder: Builder, tmp_path: Path, files: Files, **changes: object) -> str:
    """The reason of a build that fails."""
    return builder.failure(put(tmp_path / "app", files), **changes)


def test_project_toml(builder: Builder, tmp_path: Path) -> None:
    """project.toml names buildpacks of the app and inline ones, settings, and what to leave out."""
    project = """
    [_]
    schema-version = "0.2"
    [io.buildpacks]
    exclude = ["*.md", "docs/", "!docs/keep/"]
    [[io.buildpacks.group]]
    uri = "build/mine"
    [[io.buildpacks.group]]
    id = "test/inline"
      [io.buildpacks.group.script]
      api = "0.10"
      inline = "ls -R; echo inline sees $GIVEN"
    [[io.buildpacks.build.env]]
    name = "GIVEN"
    value = "a setting"
    """
    files: Files = buildpack("app/mine", below="build/mine/")
    files |= {"project.toml": project, "Procfile": "worker: y\n", "docs/keep/x": "", "docs/y": ""}
    lines = run(builder, tmp_path, {**files, "README.md": "", "sub/z.md": "", "sub/kept": ""})
    assert "built by app_mine with a setting" in lines
    assert "inline sees a setting" in lines
    assert "       Procfile declares types -> worker" in lines
    assert "kept" in lines
    assert {"README.md", "z.md", "y"}.isdisjoint(lines)


def test_include_and_the_old_schema(builder: Builder, tmp_path: Path) -> None:
    """Schema 0.1 is understood; with `include` nothing else is kept."""
    project = '[build]\ninclude = ["kept", "*.toml"]\n[[build.buildpacks]]\nid = "test/inline"\n'
    project += '[build.buildpacks.script]\napi = "0.10"\ninline = """find . -type f | sort\n'
    project += 'echo $GIVEN\nprintf "[[processes]]\\\\ntype = \'web\'\\\\ncommand = [\'x\']\\\\n" > $CNB_LAYERS_DIR/launch.toml"""\n[[build.env]]\nname = "GIVEN"\nvalue = "old"\n'
    files: Files = {"project.toml": project, "kept": "", "other/x": "", "Procfile": "web: x"}
    lines = run(
        builder, tmp_path, files | {"other/kept": "", "kept.toml": ""}, catalog=plain(builder)
    )
    found = [line for line in lines if line.startswith("./")]
    assert found == ["./kept", "./kept.toml", "./other/kept", "./project.toml"]
    assert "old" in lines


def plain(builder: Builder) -> catalogs.Catalog:
    """A catalog whose only buildpack names a process, and stands behind any other."""
    source = builder.buildpack(f"web-{time.monotonic_ns()}", "exit 0", BUILD)
    return catalogs.catalog((source,), ((Member(source.buildpack.id),),))


def test_before_and_behind(builder: Builder, tmp_path: Path) -> None:
    """`pre` and `post` go around whatever is detected."""
    catalog = plain(builder)
    project = "[_]\n"
    for place in ("pre", "post"):
        project += f'[[io.buildpacks.{place}.group]]\nuri = "./{place}"\n'
    files: Files = {"project.toml": project}
    for place in ("pre", "post"):
        files |= buildpack(f"app/{place}", f"#!/bin/sh\necho {place}\n", below=f"{place}/")
    lines = run(builder, tmp_path, files, catalog=catalog)
    built = [line.split(" with")[0] for line in lines if line in ("pre", "post") or "built" in line]
    assert built == ["pre", f"built by {next(iter(catalog.sources)).replace('/', '_')}", "post"]


def test_a_list_and_the_platform(builder: Builder, tmp_path: Path) -> None:
    """.buildpacks has one reference a line; what the platform says comes before it."""
    files: Files = {".buildpacks": "\ufeff# mine\r\n\r\n./one\r\nheroku/python\r\n"}
    files |= {"requirements.txt": "", "Procfile": "web: x"}
    files |= buildpack("app/one", below="one/") | buildpack("app/two", below="two/")
    lines = run(builder, tmp_path, files)
    assert "built by app_one with nothing" in lines
    assert any("Using Python 3" in line for line in lines)
    lines = run(builder, tmp_path / "again", files, buildpacks=("two",))
    assert "built by app_two with nothing" in lines
    assert not any("app_one" in line or "Using Python" in line for line in lines)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({".buildpacks": "./none\n"}, "./none: there is no such folder in the app"),
        ({".buildpacks": "../x\n"}, "../x: there is no such folder in the app"),
        ({".buildpacks": "/etc\n"}, "/etc: there is no such folder in the app"),
        ({".buildpacks": "git@host:x/y.git\n"}, "builds have no ssh keys"),
        ({".buildpacks": "file:///etc\n"}, "there is no such folder in the app"),
        ({".buildpacks": "ftp://x/y\n"}, "an address begins with https://"),
        ({".buildpacks": "https://h/x#-u\n"}, "'-u' is no branch, tag or commit"),
        ({".buildpacks": "docker://127.0.0.1:5000/x\n"}, "may not name a registry of this network"),
        ({".buildpacks": "docker://10.0.0.1/x\n"}, "may not name a registry of this network"),
        ({".buildpacks": "docker://localhost:5000/x\n"}, "may not name a registry of this network"),
        (
            {".buildpacks": "What Is This?\n"},
            "neither one of our buildpacks nor a folder of the app",
        ),
        ({".buildpacks": "urn:cnb:registry:a/b\n"}, "name the buildpack's image instead"),
        ({".buildpacks": "bp\n", "bp/x": ""}, "neither a buildpack.toml nor a file bin/detect"),
        ({".buildpacks": "bp\n", "bp/buildpack.toml": "="}, "bp/buildpack.toml is malformed"),
        (
            {
                ".buildpacks": "bp\n",
                "bp/buildpack.toml": 'api="0.3"\n[buildpack]\nid="x"\nversion="1"',
            },
            "bp/buildpack.toml: buildpack API 0.3 is not within 0.7 and 0.12",
        ),
        ({"project.toml": "[_\n"}, "project.toml is not valid TOML: "),
        ({"project.toml": '_ = "x"\n'}, "project.toml: `_` must be a table"),
        ({"project.toml": '[_]\nschema-version = "9"'}, "schema-version '9' is not 0.1 or 0.2"),
        (
            {"project.toml": "[_]\n[[io.buildpacks.group]]\nversion = '1'"},
            "project.toml: io.buildpacks.group[0] needs a string `uri`, `id` or a table `script`",
        ),
        (
            {"project.toml": "[_]\n[[io.buildpacks.build.env]]\nname = '../x'\nvalue = ''"},
            "project.toml: io.buildpacks.env[0].name is no name of a variable",
        ),
        (
            {"project.toml": "[io.buildpacks]\nexclude = 'x'"},
            "`io.buildpacks.exclude` must be a list",
        ),
    ],
)
def test_wishes_that_cannot_be_met(
    builder: Builder, tmp_path: Path, files: Files, reason: str
) -> None:
    """What cannot be used is an error that names the wish and what would be right."""
    assert reason in fail(builder, tmp_path, files)


def test_a_registry_that_is_not_listed_is_not_asked(builder: Builder) -> None:
    """Whoever names the image: an app's owner may reach no more than an app's files."""
    files: Files = {"Procfile": "web: x"}
    asked: list[str] = []
    reason = builder.failure(
        files,
        buildpacks=("docker://registry.invalid/x",),
        may_pull=lambda host: bool(asked.append(host)),
    )
    assert "is in the registry registry.invalid, which builds may not reach" in reason
    assert asked == ["registry.invalid"]


def test_a_link_to_a_buildpack(builder: Builder, tmp_path: Path) -> None:
    """A folder that is reached through a link is none of the app's."""
    app = put(tmp_path / "app", {".buildpacks": "link/bp\n"})
    outside = put(tmp_path / "outside", buildpack("x/y", below="bp/"))
    os.symlink(outside, app / "link")
    assert "link/bp: neither one of our buildpacks nor a folder of the app" in builder.failure(app)


def test_an_image(builder: Builder, tmp_path: Path) -> None:
    """A package with a composite comes from a registry, and brings what it is made of."""
    order = '[[order]]\n[[order.group]]\nid = "p/one"\nversion = "1.0.0"\n'
    order += '[[order.group]]\nid = "p/two"\nversion = "1.0.0"\noptional = true\n'
    tree: dict[str, bytes | str | None] = {}
    parts = {"p_all": {"buildpack.toml": next(iter(buildpack("p/all", more=order).values()))}}
    parts |= {"p_one": buildpack("p/one"), "p_two": buildpack("p/two")}  # type: ignore[dict-item]
    for name, files in parts.items():
        for file, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            tree[f"cnb/buildpacks/{name}/1.0.0/{file}"] = data
    label = json.dumps({"id": "p/all", "version": "1.0.0"})
    image = imagelab.Foreign(
        [(imagelab.tar_of(tree), "gzip")], Labels={"io.buildpacks.buildpackage.metadata": label}
    )
    with imagelab.registry() as host:
        imagelab.put(host, "bp/all", image)
        imagelab.put_manifest(host, "bp/all", "1", image.manifest, image.media_type)
        lines = run(builder, tmp_path, {"a": ""}, buildpacks=(f"docker://{host}/bp/all:1",))
        assert [line for line in lines if line.startswith("built")] == [
            "built by p_one with nothing",
            "built by p_two with nothing",
        ]
        reason = fail(builder, tmp_path, {"b": ""}, buildpacks=(f"{host}/bp/none",))
        assert f"the buildpack {host}/bp/none: " in reason


@contextmanager
def beyond(name: str, root: Path) -> Iterator[str]:
    """A machine beyond the host that serves the repositories and files below `root`; its address."""
    ours, theirs = "203.0.113.241", "203.0.113.242"
    programs = imagelab.run("git", "--exec-path").strip()
    git = [
        f"{programs}/git-daemon",
        "--reuseaddr",
        f"--base-path={root}",
        "--export-all",
        str(root),
    ]
    web = ["/usr/bin/python3", "-m", "http.server", "80", "--directory", str(root)]
    with machine_beyond(name, ours, theirs) as inside, ExitStack() as stack:
        for each in (git, web):
            server = subprocess.Popen([*inside, *each], stderr=subprocess.DEVNULL)
            stack.callback(server.wait, 10)
            stack.callback(server.kill)
        for port in (9418, 80):
            _await(theirs, port)
        yield theirs


def _await(address: str, port: int) -> None:
    deadline, pause = time.monotonic() + 20, 0.01
    while True:
        try:
            socket.create_connection((address, port), 2).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(pause)
            pause = min(pause * 2, 0.2)


def commit(folder: Path, files: Files, message: str) -> str:
    """Commit files to a repository; gives the commit."""
    put(folder, files)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@test"]
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", message], check=True)
    subprocess.run([*git, "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_git_and_archives(builder: Builder, tmp_path: Path) -> None:
    """A repository comes at a branch, a tag or a commit; an archive as it is; both in a container."""
    served = tmp_path / "served"
    echo = '#!/bin/sh\necho at $0 {}\nprintf \'[[processes]]\\ntype = "web"\\ncommand = ["x"]\\n\''
    echo += ' > "$CNB_LAYERS_DIR/launch.toml"\n'
    first = commit(served / "bp.git", buildpack("g/bp", echo.replace("{}", "first")), "1")
    subprocess.run(["git", "-C", served / "bp.git", "tag", "v1"], check=True)
    commit(served / "bp.git", buildpack("g/bp", echo.replace("{}", "second")), "2")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        files = buildpack("g/tgz", echo.replace("{}", "archived"))
        tar.add(put(tmp_path / "bp-1.0", files), "bp-1.0")
    (served / "bp.tgz").write_bytes(buffer.getvalue())
    name = f"bp{os.getpid()}"[:15]
    with beyond(name, served) as address:
        url = f"git://{address}/bp.git"
        for ref, said in (
            ("", "second"),
            ("#v1", "first"),
            (f"#{first}", "first"),
            ("#main", "second"),
        ):
            lines = run(builder, tmp_path / f"app{ref[1:]}", {".buildpacks": f"{url}{ref}\n"})
            assert f"at /cnb/buildpacks/g_bp/1.0.0/bin/build {said}" in lines
        archive = {".buildpacks": f"http://{address}/bp.tgz\n"}
        assert any("archived" in line for line in run(builder, tmp_path / "tgz", archive))
        reason = fail(builder, tmp_path / "none", {".buildpacks": f"{url}#none\n"})
        assert reason == f"the buildpack {url}#none could not be fetched"
        assert any("none" in line and "remote ref" in line for line in builder.lines)
        reason = fail(builder, tmp_path / "404", {".buildpacks": f"http://{address}/no.tgz\n"})
        assert "could not be fetched" in reason


CLASSIC: Files = {
    "bin/detect": '#!/bin/sh\ntest -f "$1/marker" && echo Marked\n',
    "bin/compile": r"""#!/bin/bash
set -e
echo "-----> compile $# $HOME $STACK ${GIVEN-unset} $(cat "$3/GIVEN") $PWD"
test "$1" = /workspace && touch /app/writable "$1/compiled" "$(dirname "$0")/../export"
cat "$2/seen" 2>/dev/null || echo first > "$2/seen"
mkdir -p "$1/.profile.d" "$1/.bin"
printf '#!/bin/sh\necho tool of classic\n' > "$1/.bin/tool"; chmod +x "$1/.bin/tool"
echo 'export PATH="$HOME/.bin:$PATH" ODD="a\"b\\c
d"; plain=no' > "$1/.profile.d/a.sh"
echo 'made:  by compile ' > "$1/Procfile"
printf 'export PATH="%s/.bin:$PATH"\nexport HANDED="on and on"\n' "$1" > "$(dirname "$0")/../export"
""",
    "bin/release": r"""#!/bin/sh
cat <<'END'
---
addons:
  - none
config_vars:
  SET_BY_RELEASE: 'it''s'
default_process_types:
  web: tool && echo "$ODD"  # said
  "clock": "tool \"x\""
END
""",
}


def test_classic(builder: Builder, tmp_path: Path) -> None:
    """A classic buildpack compiles, exports, releases, and has its .profile.d sourced at a start."""
    after = '#!/bin/sh\necho "after: $HANDED $(tool)"\n'
    project = (
        '[_]\n[[io.buildpacks.group]]\nuri = "./old"\n[[io.buildpacks.group]]\nuri = "./new"\n'
    )
    project += '[[io.buildpacks.build.env]]\nname = "GIVEN"\nvalue = "by file"\n'
    files = {f"old/{name}": text for name, text in CLASSIC.items()} | {"marker": ""}
    files |= buildpack("app/new", after, below="new/") | {"project.toml": project}
    app = put(tmp_path / "app", files)
    one = builder.build(app)
    assert "-----> compile 3 /app heroku-24 unset by file /workspace" in builder.lines
    assert "after: on and on tool of classic" in builder.lines
    assert one.processes == {
        "web": 'tool && echo "$ODD"',
        "clock": 'tool "x"',
        "made": "by compile",
    }
    script = (
        "readlink /app; echo $SET_BY_RELEASE; echo ${plain-none}; cd /app && "
        + one.processes["web"]
    )
    assert builder.run(one, script, HOME="/app").splitlines() == [
        "/workspace",
        "it's",
        "none",
        "tool of classic",
        'a"b\\c',
        "d",
    ]
    builder.build(app, previous=one.image)
    assert "first" in builder.lines


def test_classic_that_does_not_fit(builder: Builder, tmp_path: Path) -> None:
    """A classic buildpack that does not detect its app fits no more than any other."""
    files = {f"old/{name}": text for name, text in CLASSIC.items()} | {".buildpacks": "old\n"}
    assert fail(builder, tmp_path, files) == "No buildpack fits this app"
    files |= {"marker": "", "old/bin/compile": "#!/bin/sh\nexit 3\n"}
    assert "the buildpack classic/old failed" in fail(builder, tmp_path, files).lower()
