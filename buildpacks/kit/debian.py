"""Debian packages for a layer, without root: apt resolves, fetches and verifies, dpkg-deb unpacks.

Nothing is installed: no maintainer script runs and the stack's files stay as they are. So what a
package expects below `/usr` lies below the layer's `usr`; `relocate` mends what can be mended in
its files, and the environment of the layer says the rest (PATH, LD_LIBRARY_PATH).
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from shipway.buildpacks.kit import bill, run
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "1"  # a new one when layers must be made anew though the same packages are asked for
BUILD_STATUS = "/var/lib/dpkg/status"  # what the build image has
RUN_STATUS = "/cnb/run/dpkg-status"  # what the run image has, where the platform shows it
SOURCES = "/etc/apt/sources.list"
MIRROR, SECURITY_MIRROR = "DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR"
TRIPLET = f"{os.uname().machine}-linux-gnu"
RUN_PATHS = ("PATH", "LD_LIBRARY_PATH")  # the others are for compilers
# Seconds: a silent mirror is given up on, and tried once more.
_OPTIONS = (
    "Acquire::Languages=none",
    "Acquire::Retries=1",
    "Acquire::http::Timeout=15",
    "Acquire::https::Timeout=15",
    "APT::Get::List-Cleanup=true",
    "APT::Sandbox::User=",
    "Debug::NoLocking=true",
    "Dpkg::Use-Pty=0",
)
# Nobody reads them in a container. Licences stay.
_UNWANTED = (
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc-base",
    "usr/share/fish",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zsh",
)
_INSTALL = re.compile(r"Inst (\S+) (?:\[[^]]*\] )?\((\S+)")
_MISSING = re.compile(
    r"Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation candidate"
    r"|Couldn't find any package by (?:glob|regex) '([^']+)'"
)
_UNREACHABLE = re.compile(
    r"Could not (?:resolve|connect|handshake)|Unable to connect|Connection|Temporary failure"
    r"|Network is unreachable|Cannot initiate|Failed to fetch"
)
_HOST = re.compile(r"(?:https?|ftp)://([^/\s']+)")
_ALTERNATIVE = re.compile(r"--(?:install|slave)\s+(/\S+)\s+\S+\s+(/\S+)")
_SHEBANG = re.compile(rb"#!\s*(/\S+)")


class Package(NamedTuple):
    """A package that was fetched and verified: its name, its version, its file."""

    name: str
    version: str
    path: str


def fingerprint(names: Sequence[str], launch: bool, *more: str) -> str:
    """A digest of what is asked for, and of the image that it will stand upon.

    A stack with newer packages makes layers anew, so that they get their security updates too.
    """
    digest = hashlib.sha256("\0".join((RECIPE, TRIPLET, *names, "", *more)).encode())
    with open(_status(launch), "rb") as file:
        digest.update(file.read())
    return digest.hexdigest()


def provide(
    context: Context,
    layer: Layer,
    names: Sequence[str],
    *,
    launch: bool,
    without: Collection[str] = (),
) -> list[Package]:
    """Make `layer` anew from these packages and all they depend on; the caller keeps it.

    What the run image has (`launch`), or else the build image, is left out, and so are packages
    named by `without` (the start of a name, with a `*`, too). Raises CannotBuild.
    """
    packages = fetch(context, names, launch=launch, without=without)
    layer.empty()
    unpack(packages, layer.path)
    distro = context.distro.replace(" ", "-")
    bill.write(
        layer,
        (
            {
                "name": package.name,
                "version": package.version,
                "purl": f"pkg:deb/debian/{package.name}@{package.version}?distro={distro}",
            }
            for package in sorted(packages)
        ),
    )
    for name, value in env_values(layer.path).items():
        phase = "" if name in RUN_PATHS else "build"
        layer.set_env({name: value}, phase=phase, action="prepend", delimiter=os.pathsep)
    return packages


def versions(packages: Iterable[Package]) -> list[str]:
    """`name=version` of each, as a layer's metadata keeps it."""
    return sorted(f"{package.name}={package.version}" for package in packages)


def fetch(
    context: Context, names: Sequence[str], *, launch: bool, without: Collection[str] = ()
) -> list[Package]:
    """Fetch packages with what they need; see `provide`. Downloads are kept in the app's cache.

    `names` may hold paths of .deb files. Raises CannotBuild.
    """
    apt = _Apt(context, _status(launch))
    apt.update()
    files = [_of_file(name) for name in names if name.endswith(".deb")]
    known = {package.name for package in files}
    wanted = [
        (name, version)
        for name, version in apt.resolve(names)
        if name not in known and not any(fnmatchcase(name, pattern) for pattern in without)
    ]
    return apt.verified(wanted) + files


def without_headers(context: Context, names: Sequence[str]) -> list[str]:
    """`names`, with the libraries of a -dev package in that package's place."""
    apt = _Apt(context, _status(launch=True))
    apt.update()
    found: dict[str, None] = {}
    for name in names:
        bare = name.partition("=")[0]
        libraries = apt.libraries(bare) if bare.endswith("-dev") else [name]
        found.update(dict.fromkeys(libraries))
    return list(found)


def unpack(packages: Sequence[Package], root: str) -> None:
    """Unpack into the folder `root`, and make it ready to be used where it lies."""
    import subprocess

    os.makedirs(root, exist_ok=True)
    for package in packages:
        done = subprocess.run(
            ["dpkg-deb", "--extract", package.path, root], capture_output=True, check=False
        )
        if done.returncode:
            told = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise CannotBuild(f"{package.name} {package.version} cannot be unpacked: {told[-1]}")
    _merge_usr(root)
    for package in packages:
        _choose_alternatives(package, root)
    prune(root)
    relocate(root)


def env_values(root: str) -> dict[str, str]:
    """The folders that programs look in, by path variable: only those that are there."""
    lib, usr = f"{root}/usr/lib", f"{root}/usr"
    folders = {
        "PATH": (f"{usr}/bin", f"{usr}/sbin", f"{usr}/games"),
        "LD_LIBRARY_PATH": (f"{lib}/{TRIPLET}", lib),
        "LIBRARY_PATH": (f"{lib}/{TRIPLET}", lib),
        "CPATH": (f"{usr}/include/{TRIPLET}", f"{usr}/include"),
        "PKG_CONFIG_PATH": (f"{lib}/{TRIPLET}/pkgconfig", f"{usr}/share/pkgconfig"),
    }
    there = {
        name: [path for path in paths if os.path.isdir(path)] for name, paths in folders.items()
    }
    # libraries deeper down: pulseaudio's, blas's (an alternative that no script has chosen)
    there["LD_LIBRARY_PATH"] += _deep_libraries(f"{lib}/{TRIPLET}")
    return {name: ":".join(paths) for name, paths in there.items() if paths}


def prune(root: str, more: Sequence[str] = ()) -> None:
    """Remove documentation and translations, and `more` (paths below the root)."""
    import shutil

    for path in (*_UNWANTED, *more):
        shutil.rmtree(f"{root}/{path}", ignore_errors=True)
    docs = f"{root}/usr/share/doc"
    for folder, _, files in os.walk(docs, topdown=False):
        for name in files:
            if name != "copyright":
                os.unlink(f"{folder}/{name}")
        if not os.listdir(folder):
            os.rmdir(folder)


def relocate(root: str) -> None:
    """Point links, interpreters and pkg-config files that name the package's own parts into `root`."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            if os.path.islink(path):
                _mend_link(path, root)
            elif os.path.isfile(path):
                _mend_file(path, root)


class _Apt:
    """apt, with its state in folders of ours."""

    def __init__(self, context: Context, status: str) -> None:
        self._folder = context.cached("apt") or "/tmp/apt"
        self._archives = f"{self._folder}/archives"
        for name in ("lists/partial", "archives/partial", "log"):
            os.makedirs(f"{self._folder}/{name}", exist_ok=True)
        self._env = {**context.env, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        self._stack = context.stack
        self._sources = _sources(context.env, self._folder)
        settings = (
            *_OPTIONS,
            f"Dir::State::lists={self._folder}/lists",
            f"Dir::State::status={status}",
            f"Dir::State::extended_states={self._folder}/extended_states",
            f"Dir::Cache={self._folder}",
            f"Dir::Log={self._folder}/log",
            f"Dir::Etc::sourcelist={self._sources}",
        )
        self._options = [word for setting in settings for word in ("-o", setting)]

    def update(self) -> None:
        """Read which packages there are; the mirror's signature is checked."""
        done = self._run("apt-get", "-q", "update")
        if done.code or any(map(_is_error, done.lines)):
            raise self._failure(done, "Debian's package lists")

    def resolve(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Names and versions of all that is needed."""
        how = ("install", "--simulate", "--no-install-recommends", "-qq")
        done = self._run("apt-get", *how, "--", *names)
        if done.code:
            raise self._failure(done, "what is asked for")
        for line in done.lines:
            match = _INSTALL.match(line)
            if match:
                yield match[1], match[2]

    def libraries(self, name: str) -> list[str]:
        """The libraries that a -dev package directly depends on."""
        done = self._run("apt-cache", "depends", "--important", "--", name)
        if done.code:
            raise self._failure(done, name)
        names = [line.partition(": ")[2] for line in done.lines if "Depends: " in line]
        return [name for name in names if name.startswith("lib") and not name.endswith("-dev")]

    def verified(self, wanted: Sequence[tuple[str, str]]) -> list[Package]:
        """The files, fetched where need be, with the digests that the signed list gives."""
        sums = self._sums(wanted)
        missing = [item for item in wanted if self._file(*item, sums) is None]
        if missing:
            names = [f"{name}={version}" for name, version in missing]
            done = self._run("apt-get", "-q", "download", "--", *names, folder=self._archives)
            if done.code:
                raise self._failure(done, "the packages")
        found = []
        for name, version in wanted:
            path = self._file(name, version, sums)
            if path is None:
                raise CannotBuild(f"{name} {version} is not what the mirror's signed list says.")
            found.append(Package(name, version, path))
        return found

    def _sums(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], set[str]]:
        if not wanted:
            return {}
        names = [f"{name}={version}" for name, version in wanted]
        done = self._run("apt-cache", "show", "--", *names)
        sums: dict[tuple[str, str], set[str]] = {}
        fields: dict[str, str] = {}
        for line in done.lines:
            key, colon, value = line.partition(": ")
            if colon and not key.startswith(" "):
                fields[key] = value
            if key == "SHA256":
                sums.setdefault((fields["Package"], fields["Version"]), set()).add(value)
        return sums

    def _file(
        self, name: str, version: str, sums: Mapping[tuple[str, str], set[str]]
    ) -> str | None:
        """The package's file, if it is there and right: the cache is not believed."""
        prefix = f"{name}_{version.replace(':', '%3a')}_"
        for file in os.listdir(self._archives):
            if file.startswith(prefix):
                path = f"{self._archives}/{file}"
                with open(path, "rb") as archive:
                    digest = hashlib.file_digest(archive, "sha256").hexdigest()
                if digest in sums.get((name, version), ()):
                    return path
                os.unlink(path)
        return None

    def _run(self, program: str, *args: str, folder: str | None = None) -> run.Done:
        import subprocess

        done = subprocess.run(
            [program, *self._options, *args],
            cwd=folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return run.Done(done.returncode, tuple(done.stdout.decode(errors="replace").splitlines()))

    def _failure(self, done: run.Done, what: str) -> CannotBuild:
        """The reason that apt gives, in words of ours where the case is known."""
        missing = _MISSING.search(done.output)
        if missing:
            name = next(group for group in missing.groups() if group)
            return CannotBuild(f"{self._stack} has no package {name}.")
        errors = [line for line in done.lines if _is_error(line)] or list(done.lines[-3:])
        if _UNREACHABLE.search(done.output):
            host = next(iter(_HOST.findall("\n".join(errors))), "The Debian mirror")
            return CannotBuild(
                f"{host} could not be reached for {what}.",
                *errors[:2],
                f"The build setting {MIRROR} (with {SECURITY_MIRROR}) names another mirror of"
                " Debian, and http_proxy a proxy.",
            )
        return CannotBuild(f"apt cannot give {what}:", *errors[:10])


def _is_error(line: str) -> bool:
    return line.startswith(("E:", "Err:", "W: Failed"))


def _status(launch: bool) -> str:
    """The list of what is there already."""
    return RUN_STATUS if launch and os.path.exists(RUN_STATUS) else BUILD_STATUS


def _sources(env: Mapping[str, str], folder: str) -> str:
    """The stack's sources.list, or one with the mirrors that the build's settings name."""
    main, security = env.get(MIRROR), env.get(SECURITY_MIRROR)
    if not main and not security:
        return SOURCES
    lines = []
    with open(SOURCES) as file:
        for words in filter(None, map(str.split, file)):
            mirror = security if words[2].endswith("-security") else main
            lines.append(" ".join([words[0], mirror or words[1], *words[2:]]))
    path = f"{folder}/sources.list"
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _of_file(path: str) -> Package:
    """A .deb file that the app names itself."""
    import subprocess

    done = subprocess.run(
        ["dpkg-deb", "--field", path, "Package", "Version"], capture_output=True, check=False
    )
    fields = dict(line.split(": ", 1) for line in done.stdout.decode().splitlines() if ": " in line)
    if done.returncode or "Package" not in fields:
        raise CannotBuild(f"{os.path.basename(path)} is no Debian package.")
    return Package(fields["Package"], fields.get("Version", ""), path)


def _merge_usr(root: str) -> None:
    """Older packages still ship some files in /bin and /lib, which are links into /usr."""
    import shutil

    for name in ("bin", "lib", "lib64", "sbin"):
        old = f"{root}/{name}"
        if os.path.isdir(old) and not os.path.islink(old):
            shutil.copytree(old, f"{root}/usr/{name}", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)


def _choose_alternatives(package: Package, root: str) -> None:
    """Make the links that a package's script would ask update-alternatives for."""
    import subprocess

    done = subprocess.run(
        ["dpkg-deb", "--info", package.path, "postinst"], capture_output=True, check=False
    )
    script = done.stdout.decode(errors="replace").replace("\\\n", " ")
    for link, target in _ALTERNATIVE.findall(script):
        if os.path.exists(root + target) and not os.path.lexists(root + link):
            os.makedirs(os.path.dirname(root + link), exist_ok=True)
            os.symlink(target, root + link)  # relocate makes it a relative one


def _deep_libraries(folder: str) -> list[str]:
    names = ("blas", "lapack", "pulseaudio")
    return [f"{folder}/{name}" for name in names if os.path.isdir(f"{folder}/{name}")]


def _mend_link(path: str, root: str) -> None:
    """An absolute link to a part of the packages becomes a relative one."""
    target = os.readlink(path)
    if target.startswith("/") and os.path.lexists(root + target):
        os.unlink(path)
        os.symlink(os.path.relpath(root + target, os.path.dirname(path)), path)


def _mend_file(path: str, root: str) -> None:
    if path.endswith(".pc"):
        with open(path, "r+", encoding="utf-8", errors="surrogateescape") as file:
            text = re.sub(r"(?m)^prefix\s*=\s*/usr\s*$", f"prefix={root}/usr", file.read())
            file.seek(0)
            file.truncate()
            file.write(text)
    elif os.access(path, os.X_OK):
        _mend_interpreter(path, root)


def _mend_interpreter(path: str, root: str) -> None:
    """A script whose interpreter came along is started by that one."""
    with open(path, "rb") as file:
        match = _SHEBANG.match(file.read(256))
        if match is None:
            return
        program = os.fsdecode(match[1])
        if program.startswith("/bin/"):
            program = f"/usr{program}"
        if not os.path.exists(root + program):
            return
        file.seek(match.end())
        rest = file.read()
    with open(path, "wb") as file:
        file.write(b"#!" + os.fsencode(root + program) + rest)
