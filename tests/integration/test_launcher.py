"""The launcher in real images: what it makes of layers, and what it starts."""

import pytest

from buildlab import IDS, Builder
from shipway.buildpacks.build import BuildResult
from shipway.runtime.images.defaults import Wanted, arguments
from shipway.runtime.spec import ContainerSpec

# Two layers whose names sort against the order they are made in, and one program in each exec.d.
LAYERS = r'''
cd "$CNB_LAYERS_DIR"
layer() { mkdir -p "$1"; printf '[types]\nlaunch = true\n' > "$1.toml"; }
layer b; layer a; layer kept-out; printf '[types]\nbuild = true\n' > kept-out.toml
mkdir -p a/bin a/lib b/bin b/env a/env.launch/web a/env.build kept-out/env
printf '#!/bin/sh\necho tool of a\n' > a/bin/tool; printf '#!/bin/sh\necho tool of b\n' > b/bin/tool
chmod +x a/bin/tool b/bin/tool
printf out > kept-out/env/KEPT_OUT; printf build > a/env.build/BUILD_ONLY
printf 'two lines\nand no end of trimming \n' > a/env.launch/RAW
printf first > a/env.launch/LIST.append; printf second > b/env/LIST.append; printf : > b/env/LIST.delim
printf before > b/env/LIST.prepend
printf ours > a/env.launch/SET; printf default > a/env.launch/CALM.default
printf unknown > a/env.launch/ODD.suffix
printf web > a/env.launch/web/ONLY
mkdir -p a/exec.d/web b/exec.d
cat > a/exec.d/10-first <<'END'
#!/bin/sh
pwd >&2
printf 'PLAIN = "from exec.d"\n# a comment\n"QUOTED" = '"'"'lit\\eral'"'"'\n' >&3
printf 'ESCAPED = "a\\tb\\u00e9\\"" # behind\nLONG = """\nx\n"y" \\\n   z"""\n' >&3
END
printf '#!/bin/sh\nprintf "SEEN = \\"$PLAIN again\\"\\n" >&3\n' > b/exec.d/20-second
printf '#!/bin/sh\nprintf "TYPED = \\047yes\\047\\n" >&3\n' > a/exec.d/web/typed
chmod +x a/exec.d/10-first b/exec.d/20-second a/exec.d/web/typed
cat > launch.toml <<'END'
[[processes]]
type = "web"
command = ["printenv", "--null"]
args = ["PLAIN"]
[[processes]]
type = "shell"
command = ["bash", "-c", "echo $0 $# $PWD"]
working-dir = "sub folder"
[[processes]]
type = "tested"
command = ["echo", "tested"]
exec-env = ["test"]
[[processes]]
type = "tool"
command = ["tool"]
END
'''
# API 0.8: processes for a shell, profile scripts before them, user arguments behind theirs.
OLD = r"""
cd "$CNB_LAYERS_DIR"
mkdir -p "l/profile.d/old"; printf '[types]\nlaunch = true\n' > l.toml
echo 'export PROFILE=one; helper() { echo helped; }' > "l/profile.d/a 'b.sh"
echo 'export PROFILE=$PROFILE-typed' > l/profile.d/old/c.sh
cat > launch.toml <<'END'
[[processes]]
type = "old"
command = "echo $PROFILE $APP_PROFILE"
[[processes]]
type = "words"
command = "echo"
args = ["$PROFILE", "'$HOME'", "two  spaces"]
[[processes]]
type = "direct"
command = "echo"
args = ["$PROFILE"]
direct = true
END
"""
FILES: dict[str, str | bytes] = {
    "sub folder/x": "",
    ".profile": "export APP_PROFILE=two\n",
}


@pytest.fixture(scope="module")
def image(builder: Builder) -> BuildResult:
    old = builder.buildpack("old", "exit 0", OLD, api="0.8")
    return builder.build(FILES, builder.catalog(builder.buildpack("new", "exit 0", LAYERS), old))


def run(
    builder: Builder, result: BuildResult, *command: str, entrypoint: str = "", **env: str
) -> tuple[int, str]:
    """The exit code and output of a container, started as `docker run IMAGE COMMAND` would."""
    config = builder.image(result).config
    wanted = Wanted(command, (entrypoint,) if entrypoint else None)
    out: list[bytes] = []
    spec = ContainerSpec(
        id="launched",
        image=result.image,
        args=arguments(config, wanted),
        env=env,
        ids=IDS,
        cwd=config.working_dir,
    )
    code = builder.engine.execute(spec, out.append, timeout=30).code
    return code or 0, b"".join(out).decode()


def values(output: str) -> dict[str, str]:
    """The environment that `printenv --null` has shown."""
    return dict(item.split("=", 1) for item in output.split("\0") if "=" in item)


def test_the_entrypoint_is_web_with_its_arguments(builder: Builder, image: BuildResult) -> None:
    """Without a command the default process runs, its arguments replaced by what a user gives."""
    assert builder.image(image).config.entrypoint == ("/cnb/process/web",)
    code, output = run(builder, image)
    assert (code, output) == (0, "/workspace\nfrom exec.d\0")
    assert run(builder, image, "SEEN")[1] == "/workspace\nfrom exec.d again\0"


def test_environment(builder: Builder, image: BuildResult) -> None:
    """Layers change the environment by the specification's rules, on top of what a user has set."""
    _, output = run(
        builder,
        image,
        *("--", "env", "--null"),
        entrypoint="/cnb/lifecycle/launcher",
        LIST="user",
        SET="theirs",
        CALM="mine",
    )
    seen = values(output.removeprefix("/workspace\n"))
    layers = "/layers/test_new"
    assert seen["PATH"].startswith(f"{layers}/b/bin:{layers}/a/bin:/usr/local/sbin")
    assert "/cnb/" not in seen["PATH"]
    assert seen["LD_LIBRARY_PATH"] == f"{layers}/a/lib"
    assert seen["RAW"] == "two lines\nand no end of trimming \n"
    assert seen["LIST"] == "before:userfirst:second"
    assert (seen["SET"], seen["CALM"]) == ("ours", "mine")
    assert {"ODD", "KEPT_OUT", "BUILD_ONLY", "ONLY", "TYPED"}.isdisjoint(seen)
    assert not any(name.startswith(("CNB_L", "CNB_APP", "CNB_PLATFORM")) for name in seen)


def test_environment_of_a_process_type(builder: Builder, image: BuildResult) -> None:
    """A type's own folders apply to it, also to a command that Shipway runs in its environment."""
    assert run(builder, image, "ONLY", "TYPED")[1].endswith("web\0yes\0")
    command = ("--", "printenv", "ONLY", "TYPED")
    launcher = "/cnb/lifecycle/launcher"
    assert run(builder, image, *command, entrypoint=launcher)[0] == 1
    _, output = run(builder, image, *command, entrypoint=launcher, SHIPWAY_PROCESS_TYPE="web")
    assert output.split() == ["/workspace", "web", "yes"]


def test_exec_d_values(builder: Builder, image: BuildResult) -> None:
    """What programs in exec.d write is read as TOML in all of its forms of strings."""
    seen = run(builder, image, "QUOTED", "ESCAPED", "LONG")[1].removeprefix("/workspace\n")
    assert seen.split("\0")[:3] == ["lit\\eral", 'a\tbé"', 'x\n"y" z']


def test_working_dir_and_later_layers(builder: Builder, image: BuildResult) -> None:
    """A process starts in its own folder; of two programs the later layer's is found first."""
    assert run(builder, image, entrypoint="/cnb/process/shell")[1].splitlines()[1:] == [
        "bash 0 /workspace/sub folder"
    ]
    assert run(builder, image, entrypoint="/cnb/process/tool")[1].splitlines()[1:] == ["tool of b"]


def test_processes_of_other_execution_environments(builder: Builder, image: BuildResult) -> None:
    """A process for tests runs where CNB_EXEC_ENV says so, and is none of the platform's."""
    assert "tested" not in image.processes
    assert run(builder, image, entrypoint="/cnb/process/tested")[0] == 82
    test = run(builder, image, entrypoint="/cnb/process/tested", CNB_EXEC_ENV="test")
    assert test == (0, "/workspace\ntested\n")


def test_profile_scripts(builder: Builder, image: BuildResult) -> None:
    """A process for a shell has the layers' profile scripts before it, and the app's."""
    assert run(builder, image, entrypoint="/cnb/process/old")[1].splitlines()[1:] == [
        "one-typed two"
    ]
    words = run(builder, image, "more", entrypoint="/cnb/process/words", HOME="/h")
    assert words[1].splitlines()[1:] == ["one '/h' two  spaces more"]
    direct = run(builder, image, "more", entrypoint="/cnb/process/direct")
    assert direct[1].splitlines()[1:] == ["$PROFILE more"]
    assert image.processes["old"] == "/cnb/process/old"


def test_user_commands(builder: Builder, image: BuildResult) -> None:
    """A command of the user's runs directly behind `--`, else in a shell with profile scripts."""
    launcher = "/cnb/lifecycle/launcher"
    assert run(builder, image, "--", "echo", "$X", entrypoint=launcher)[1].endswith("\n$X\n")
    shell = run(builder, image, "helper || exit 9", entrypoint=launcher)
    assert shell[0] == 9  # a function of a profile script does not reach the inner shell
    assert run(builder, image, "exit 3", entrypoint=launcher)[0] == 3


@pytest.mark.parametrize(
    ("env", "command", "code", "said"),
    [
        ({"CNB_PLATFORM_API": "0.6"}, ("--", "true"), 11, "the platform API 0.6 is not within"),
        ({"CNB_PLATFORM_API": "1.0"}, ("--", "true"), 11, "the platform API 1.0 is not within"),
        ({}, (), 82, "when there is no default process a command is required"),
        ({}, ("--", "no-such-program"), 82, "there is no program no-such-program in PATH"),
        ({"CNB_LAYERS_DIR": "/nowhere"}, ("--", "true"), 82, "/nowhere/config/launch: No such"),
        ({"CNB_APP_DIR": "/nowhere"}, ("--", "true"), 82, "cannot change to /nowhere"),
    ],
)
def test_errors(
    builder: Builder,
    image: BuildResult,
    env: dict[str, str],
    command: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """What cannot be started has the specification's exit code, and a line that says why."""
    found, output = run(builder, image, *command, entrypoint="/cnb/lifecycle/launcher", **env)
    assert found == code
    assert f"launcher: {said}" in output


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 7", "failed (exit 7)"),
        ("echo 'A = 1' >&3", "a value that is no string"),
        ("echo '[table]' >&3", 'expected NAME = "value"'),
        ("echo 'A = \"x' >&3", "a string without an end"),
        ("echo 'A = \"\\q\"' >&3", "an unknown escape"),
        ("printf 'A = \"\\0\"' >&3", "a NUL"),
        ("echo 'A = \"x\" y' >&3", "something behind a value"),
    ],
)
def test_exec_d_that_fails(builder: Builder, image: BuildResult, script: str, said: str) -> None:
    """A program in exec.d that fails, or writes anything but strings, keeps the app from starting."""
    spec = """
    printf '%s\\n' '#!/bin/bash' "$SCRIPT" > /tmp/p; chmod +x /tmp/p
    mkdir -p /tmp/layers/config /tmp/layers/x/l/exec.d; cp /tmp/p /tmp/layers/x/l/exec.d/p
    printf 'buildpack\\0x\\0%s\\0' 1 > /tmp/layers/config/launch
    export CNB_LAYERS_DIR=/tmp/layers
    exec /cnb/lifecycle/launcher -- true
    """
    code, output = run(builder, image, "-c", spec, entrypoint="/bin/bash", SCRIPT=script)
    assert (code, said in output) == (82, True), output
