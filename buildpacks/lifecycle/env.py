"""The environment rules of the buildpack specification, for the build and for the launch.

Buildpacks contribute through files in a layer: the name up to the first period is the variable,
the rest says how the content changes it. Contents are taken as they are: no trimming, no shell.
"""

import os
from collections.abc import Iterator, Mapping

from shipway.buildpacks.lifecycle.errors import InvalidOutput

# What a buildpack may inherit from the build image; nothing else leaks in.
INHERITED = [
    "HOME",
    "HOSTNAME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CNB_STACK_ID",
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
]
BUILD_PATHS = {
    "bin": ("PATH",),
    "lib": ("LD_LIBRARY_PATH", "LIBRARY_PATH"),
    "include": ("CPATH",),
    "pkgconfig": ("PKG_CONFIG_PATH",),
}
LAUNCH_PATHS = {"bin": ("PATH",), "lib": ("LD_LIBRARY_PATH",)}
_PATH_VARIABLES = {name for names in BUILD_PATHS.values() for name in names}


def inherited(image_env: Mapping[str, str]) -> dict[str, str]:
    """The part of the build image's environment that a buildpack starts with."""
    return {name: image_env[name] for name in INHERITED if name in image_env}


def add_root(env: dict[str, str], root: str, paths: Mapping[str, tuple[str, ...]]) -> None:
    """Prepend the layer's `bin`, `lib` … where they exist."""
    for folder, names in paths.items():
        path = os.path.join(root, folder)
        if os.path.exists(path):
            for name in names:
                env[name] = _join(path, os.pathsep, env.get(name, ""))


def add_dir(env: dict[str, str], directory: str, default: str = "override") -> None:
    """Apply the files of an `env`, `env.build` or `env.launch` folder, in order of their names.

    `default` is the action for a name without a suffix. Unknown suffixes are ignored.
    """
    files = dict(_env_files(directory))
    for file, value in files.items():
        name, _, action = file.partition(".")
        delimiter = files.get(f"{name}.delim", "")
        apply(env, name, action or default, value, delimiter)


def apply(env: dict[str, str], name: str, action: str, value: str, delimiter: str = "") -> None:
    """Change one variable; `action` is append, default, override or prepend."""
    old = env.get(name, "")
    if action == "override":
        env[name] = value
    elif action == "default":
        env[name] = old or value
    elif action == "append":
        env[name] = _join(old, delimiter, value) if old else value
    elif action == "prepend":
        env[name] = _join(value, delimiter, old)


def with_user_env(env: Mapping[str, str], user: Mapping[str, str]) -> dict[str, str]:
    """What the user set goes before path variables and replaces all others."""
    out = dict(env)
    for name, value in user.items():
        out[name] = (
            _join(value, os.pathsep, out.get(name, "")) if name in _PATH_VARIABLES else value
        )
    return out


def with_operator_env(env: Mapping[str, str], operator: Mapping[str, str]) -> dict[str, str]:
    """What the operator set, by the suffix rules; without a suffix it is a default."""
    out = dict(env)
    for file in sorted(operator):
        name, _, action = file.partition(".")
        delimiter = operator.get(f"{name}.delim", "")
        apply(out, name, action or "default", operator[file], delimiter)
    return out


def read_env_files(directory: str) -> dict[str, str]:
    """The files of `<platform>/env`: names and contents as they are."""
    return dict(_env_files(directory))


def _join(first: str, delimiter: str, rest: str) -> str:
    return first + delimiter + rest if rest else first


def _env_files(directory: str) -> Iterator[tuple[str, str]]:
    """File names and contents in order of names; folders are left out, links are followed.

    Raises InvalidOutput for what no environment can hold.
    """
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                value = file.read()
            if "\0" in value or "=" in name.partition(".")[0] or name.startswith("."):
                raise InvalidOutput(
                    f"{path!r} is no variable: a name without '=', a value without NUL"
                )
            yield name, value
