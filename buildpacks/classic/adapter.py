"""A classic buildpack's compile, export and release, in terms of layers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

HOME = "/app"
# By the version of Debian: Heroku's stack whose libraries are no newer.
STACKS = {"12": "heroku-22", "13": "heroku-24"}
NOT_EXPORTED = frozenset({"_", "BASH_EXECUTION_STRING", "HOME", "OLDPWD", "PWD", "SHLVL", "STACK"})
_PAIR = re.compile(r"""(\s*)(?:'([^']*)'|"([^"]*)"|([^\s:'"#][^:]*?))\s*:(?:\s+(.*))?$""")
# Fails when the file does; prints the whole environment behind it.
_SOURCE = 'set -e; . "$1" >&2; env -0'


def main(given: Mapping[str, str]) -> int:
    """Run the buildpack in the environment `given`; gives its exit code."""
    layers, root = given["CNB_LAYERS_DIR"], given["CNB_BUILDPACK_DIR"]
    target = f"/tmp/classic{root}"
    # It may write into its own folder: `export` lies there.
    shutil.copytree(f"{root}/target", target, symlinks=True)
    env = environment(given)
    cache = f"{layers}/cache"
    os.makedirs(cache, exist_ok=True)
    write(f"{layers}/cache.toml", "[types]\ncache = true\n")
    config = f"{given['CNB_PLATFORM_DIR']}/env"
    code = subprocess.run([f"{target}/bin/compile", os.getcwd(), cache, config], env=env).returncode
    if code:
        return code if 0 < code < 126 else 1
    if os.path.isfile(f"{target}/export"):
        export(f"{target}/export", f"{layers}/export", env)
    profile(f"{root}/profile.sh", f"{layers}/profile")
    released = release(f"{target}/bin/release", env)
    types = {**released.get("default_process_types", {}), **procfile("Procfile")}
    write(f"{layers}/launch.toml", "".join(process(*item) for item in types.items()))
    defaults(released.get("config_vars", {}), f"{layers}/config")
    return 0


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a classic buildpack sees. Settings of the app reach it through ENV_DIR only."""
    env = {name: value for name, value in given.items() if not name.startswith("GIT_")}
    env["HOME"] = HOME
    env.setdefault("STACK", STACKS.get(given.get("CNB_TARGET_DISTRO_VERSION", ""), "heroku-24"))
    return env


def export(path: str, layer: str, env: dict[str, str]) -> None:
    """Have what `export` changes reach the buildpacks that follow."""
    done = subprocess.run(["bash", "-c", _SOURCE, "export", path], env=env, stdout=subprocess.PIPE)
    if done.returncode:
        say(f" !     The buildpack's export file fails (exit {done.returncode}).")
        return
    pairs = [item.partition(b"=") for item in done.stdout.split(b"\0") if b"=" in item]
    os.makedirs(f"{layer}/env.build", exist_ok=True)
    for raw, _, value in pairs:
        name = os.fsdecode(raw)
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name not in NOT_EXPORTED
        if plain and env.get(name) != os.fsdecode(value):
            with open(f"{layer}/env.build/{name}.override", "wb") as file:
                file.write(value)
    write(f"{layer}.toml", "[types]\nbuild = true\n")


def profile(program: str, layer: str) -> None:
    """Have .profile.d sourced before the app starts."""
    if not os.path.isdir(".profile.d"):
        return
    os.makedirs(f"{layer}/exec.d", exist_ok=True)
    shutil.copy(program, f"{layer}/exec.d/profile")
    write(f"{layer}.toml", "[types]\nlaunch = true\n")


def release(program: str, env: dict[str, str]) -> dict[str, dict[str, str]]:
    """What bin/release says of process types and settings."""
    if not os.access(program, os.X_OK):
        return {}
    done = subprocess.run([program, os.getcwd()], env=env, stdout=subprocess.PIPE)
    if done.returncode:
        say(f" !     The buildpack's bin/release fails (exit {done.returncode}).")
        return {}
    return sections(done.stdout.decode(errors="replace"))


def procfile(path: str) -> dict[str, str]:
    """The process types of a Procfile, which compile may have made: it was not there to be detected."""
    if not os.path.isfile(path) or os.path.islink(path):
        return {}
    with open(path, encoding="utf-8", errors="replace") as file:
        matches = (re.match(r"([A-Za-z0-9_-]+):\s*(.*\S)", line) for line in file)
        return {match[1]: match[2] for match in matches if match}


def process(type_: str, command: str) -> str:
    """A process of launch.toml."""
    return f'[[processes]]\ntype = {toml(type_)}\ncommand = ["bash", "-c", {toml(command)}]\n'


def defaults(settings: dict[str, str], layer: str) -> None:
    """Settings that hold at launch where nobody has set another value."""
    for name, value in settings.items():
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            os.makedirs(f"{layer}/env.launch", exist_ok=True)
            write(f"{layer}/env.launch/{name}.default", value)
            write(f"{layer}.toml", "[types]\nlaunch = true\n")


def sections(text: str) -> dict[str, dict[str, str]]:
    """The tables of one level in the YAML that bin/release prints, which is all it ever holds."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        match = _PAIR.match(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        name = next(each for each in match.group(2, 3, 4) if each is not None)
        if not match[1]:
            section = name
        elif section:
            found.setdefault(section, {})[name] = _scalar(match[5] or "")
    return found


def _scalar(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return re.split(r"\s+#", text, maxsplit=1)[0]


def toml(text: str) -> str:
    """A string that TOML reads as this text."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def say(text: str) -> None:
    """A line of the build's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write(path: str, text: str) -> None:
    """Make a file of it."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
