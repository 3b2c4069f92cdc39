"""The peer's builds: `docker build`, by BuildKit where this Docker has it, on base images made here."""

import os
import re
import subprocess
from pathlib import Path

from benchmarks import buildapps
from benchmarks.buildapps import App, Files
from benchmarks.docker import BASE, ROOTFS, Docker
from benchmarks.measure import timed

from shipway.buildpacks import registries
from shipway.buildpacks.kit import npm, semver
from shipway.buildpacks.nodejs import versions

# What official images have beside the file system that both sides start from.
WITH_PIP = f"""\
FROM {BASE}
RUN python3 -m venv /opt/pip && ln -s /opt/pip/bin/pip /usr/local/bin/pip
"""
WITH_NGINX = f"""\
FROM {ROOTFS}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends nginx \\
    && rm -rf /var/lib/apt/lists/*
"""
WITH_NODE = f"""\
FROM {ROOTFS}
COPY node /usr/local
COPY npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
"""
CACHES = {"pip": "/root/.cache/pip", "npm": "/root/.npm"}
CA_VARIABLES = {"pip": "PIP_CERT", "npm": "NODE_EXTRA_CA_CERTS"}
ARCHES = {"x86_64": "x64", "aarch64": "arm64"}  # npm's names
CA_SECRET, CA_FILE = "/run/secrets/ca", "ca.crt"


class DockerBuilds:
    """`docker build` of apps. `folder` is for its trees; `ca` is trusted beside what images trust."""

    def __init__(self, docker: Docker, folder: Path, ca: Path) -> None:
        folder.mkdir(parents=True)
        self._docker = docker
        self._folder = folder
        self._ca = ca if ca.exists() else None
        self.buildkit = self._has_buildkit()
        self._make_bases()

    @property
    def name(self) -> str:
        """For the table: which of the two builders it is."""
        return f"docker build ({'BuildKit' if self.buildkit else 'classic'})"

    def write(self, tree: str, files: Files) -> None:
        """Write files into the tree of that name, beside those that are there."""
        write(self._folder / tree, files)

    def build(self, app: App, tree: str, *options: str) -> float:
        """Build the tree to the image of the same name; seconds it took."""
        text = dockerfile(app.dockerfile, buildkit=self.buildkit, with_ca=self._ca is not None)
        path = self._folder / f"{tree}.Dockerfile"
        path.write_text(text)
        extra: tuple[str, ...] = ()
        if self._ca and self.buildkit:
            extra = ("--secret", f"id=ca,src={self._ca}")
        elif self._ca:
            (self._folder / tree / CA_FILE).write_bytes(self._ca.read_bytes())
        where = ("-f", str(path), "-t", _image(tree), str(self._folder / tree))
        return timed(lambda: self._run("build", "-q", *options, *extra, *where))

    def forget(self, tree: str) -> None:
        """Empty all caches, and remove the tree's image if there is one."""
        if self._run("images", "-q", _image(tree)):
            self._run("rmi", "-f", _image(tree))
        self._run("image", "prune", "-f")
        self._run("builder", "prune", "-af")

    def size(self, tree: str) -> int:
        """Bytes of the image's files above the file system that both sides start from."""
        whole, base = (
            int(self._run("image", "inspect", "-f", "{{.Size}}", name))
            for name in (_image(tree), ROOTFS)
        )
        return whole - base

    def package_lists(self) -> tuple[Files, ...]:
        """package.json and package-lock.json of the Express app, then with one dependency more each."""
        folder = self._folder / "lists"
        write(folder, {"package.json": buildapps.manifest()})
        made = []
        for packages in (buildapps.EXPRESS, *((one,) for one in buildapps.EXPRESS_MORE)):
            self._npm(folder, "install", "--package-lock-only", *packages)
            names = ("package.json", "package-lock.json")
            made.append({name: (folder / name).read_text() for name in names})
        buildapps.check_packages(made[0]["package-lock.json"])
        return tuple(made)

    def _npm(self, folder: Path, *args: str) -> None:
        trusted: tuple[str, ...] = ()
        if self._ca:
            trusted = ("-v", f"{self._ca}:{CA_SECRET}:ro", "-e", f"NODE_EXTRA_CA_CERTS={CA_SECRET}")
        argv = ("run", "--rm", "-v", f"{folder}:/app", "-w", "/app", *trusted, buildapps.NODE)
        self._run(*argv, "npm", "--no-audit", "--no-fund", *args)

    def _has_buildkit(self) -> bool:
        """Whether a build of nothing succeeds with it; a client of 23 and later needs a plug-in."""
        self.buildkit = True
        try:
            self._run("build", "-q", "-", input=f"FROM {ROOTFS}\n".encode())
        except subprocess.CalledProcessError:
            return False
        return True

    def _make_bases(self) -> None:
        for image, text in ((buildapps.PYTHON, WITH_PIP), (buildapps.NGINX, WITH_NGINX)):
            self._run("build", "-q", "-t", image, "-", input=text.encode())
        context = self._folder / "node"
        context.mkdir()
        registry = npm.Registry({"SHIPWAY_NPM_REGISTRY": registries.npm()})
        for package, folder, wanted in (
            (f"node-linux-{ARCHES[os.uname().machine]}", "node", versions.DEFAULT),
            ("npm", "npm", "11.x"),
        ):
            known = registry.versions(package)
            version = semver.Range(wanted).best(known)
            if version is None:
                raise RuntimeError(f"there is no {package} {wanted}")
            registry.unpack(known[version], str(context / folder))
        for program in ("node/bin/node", "npm/bin/npm-cli.js"):
            (context / program).chmod(0o755)
        (context / "Dockerfile").write_text(WITH_NODE)
        self._run("build", "-q", "-t", buildapps.NODE, str(context))

    def _run(self, *args: str, **more: object) -> str:
        env = {**os.environ, "DOCKER_BUILDKIT": str(int(self.buildkit))}
        return self._docker.run(*args, env=env, **more)


def dockerfile(text: str, *, buildkit: bool, with_ca: bool) -> str:
    """The Dockerfile with its steps `@pip` and `@npm` spelled out for this builder.

    With BuildKit the downloads are kept from build to build in a cache mount, and the certificates
    are a secret; the classic builder has neither.
    """

    def step(found: re.Match[str]) -> str:
        tool = found[1]
        ca = CA_SECRET if buildkit else f"/{CA_FILE}"
        trusting = f"{CA_VARIABLES[tool]}={ca} " if with_ca else ""
        if buildkit:
            secret = "--mount=type=secret,id=ca " if with_ca else ""
            return f"RUN --mount=type=cache,target={CACHES[tool]} {secret}{trusting}{tool}"
        copied = f"COPY {CA_FILE} /\n" if with_ca else ""
        return f"{copied}RUN {trusting}{tool}"

    return re.sub("^@(pip|npm)", step, text, flags=re.MULTILINE)


def write(folder: Path, files: Files) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _image(tree: str) -> str:
    return f"bench-build-{tree}"
