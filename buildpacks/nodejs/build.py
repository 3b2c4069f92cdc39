"""Give the app its Node.js or Bun and its packages, and run its build script.

Where it can be, `node_modules` is a link into a layer, so that a build with the same packages
installs nothing and a push of code exports none of them. See README.md.
"""

import json
import os
import re
import time

from shipway.buildpacks.kit import files, procfile, say, semver
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.nodejs import managers, versions
from shipway.buildpacks.nodejs import manifest as manifests
from shipway.buildpacks.nodejs.managers import Manager
from shipway.buildpacks.nodejs.manifest import Manifest

RECIPE = "1"  # a new one when layers must be made anew though the app asks for the same
OTHERS = (
    *("requirements.txt", "pyproject.toml", "Pipfile", "Gemfile", "composer.json", "go.mod"),
    *("mix.exs", "pom.xml", "build.gradle", "build.gradle.kts", "Cargo.toml", "deno.json"),
)
# Keys of package.json that no installed package depends on.
IRRELEVANT = {"name", "version", "description", "author", "license", "keywords", "homepage"}
IRRELEVANT |= {"repository", "bugs", "private", "scripts", "main", "contributors", "funding"}
SETTINGS = (".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "bunfig.toml")
HINT = 'Give package.json a script such as "start": "node index.js". Or:'
INSTALL_SCRIPTS = ("preinstall", "install", "postinstall", "prepare")
# Programs that a Procfile's line may begin with, or have in it.
RUNS_NODE = re.compile(r"\b(node|npm|npx|yarn|pnpm|bun|bunx|next|nuxt|tsx|ts-node|pm2|nodemon)\b")


class App:
    """What an app is, as far as it decides how it is built."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.manifest: Manifest = manifests.read()
        self.manager: Manager = managers.choose(self.manifest)
        self.web = web_command(self.manifest, self.manager)
        self.script = next(
            (name for name in ("heroku-postbuild", "build") if self.manifest.scripts.get(name)), ""
        )
        self.assets_only = self._assets_only()
        self.env = {
            **context.env,
            **self.manager.env(context.cached("node")),
            "NODE_ENV": context.env.get("NODE_ENV", "production"),
        }

    def _assets_only(self) -> bool:
        """Whether Node.js has no part in running the app."""
        if files.there("Procfile"):
            return not RUNS_NODE.search(files.text("Procfile"))
        return bool(files.there(*OTHERS)) or not self.web

    @property
    def in_place(self) -> bool:
        """Whether node_modules must lie in the app: something in it, or a tool, needs to be there."""
        setting = self.context.env.get("SHIPWAY_NODE_MODULES", "")
        return (
            setting == "app"
            or self.manager.modern
            or self.manifest.workspaces
            or bool(files.there("pnpm-workspace.yaml"))
            or self.manifest.depends_on("next")
            or bool(_local(files.text(manifests.NAME)))
        )


def build(context: Context) -> None:
    """Raises CannotBuild."""
    app = App(context)
    if not app.web and not app.script and not procfile.there() and not files.there(*OTHERS):
        raise procfile.missing("Node.js", "web: node index.js", HINT)
    runtime = _runtime(app)
    if app.in_place:
        _install(app)
        _run_script(app)
        _prune(app)
    else:
        _layered(app, runtime)
    if app.web and not app.assets_only and not procfile.there():
        say.detail(f"No Procfile: web runs {app.web!r}")
        procfile.declare(context, app.web)


def web_command(manifest: Manifest, manager: Manager) -> str:
    """How the app starts where no Procfile says it; empty when nothing does.

    The start script itself, without a package manager in between that would take memory and
    signals; with one where the script needs what it adds.
    """
    start = manifest.scripts.get("start", "").strip()
    if start:
        scripts = {"prestart", "poststart"} & manifest.scripts.keys()
        if scripts or "npm_" in start or manager.modern:
            return f"{manager.name} run start"
        return start
    if files.there("server.js"):
        return f"{'bun' if manager.name == 'bun' else 'node'} server.js"  # npm's own rule
    return ""


def _runtime(app: App) -> str:
    """Make Node.js or Bun ready; gives what the packages depend on: it and its version."""
    context, manager = app.context, app.manager
    layer, headers = Layer(context, "node"), Layer(context, "headers")
    wanted, source = versions.asked(app.manifest)
    bun_alone = manager.name == "bun" and not source
    asked = f"{'bun' if bun_alone else wanted} {manager.package} {manager.wanted} {manager.digest}"
    made_from = files.fingerprint([], RECIPE, context.arch, asked)
    kept = layer.made_from(made_from) and (bun_alone or headers.made_from(made_from))
    if kept:
        say.step("Using the Node.js of the previous build" if not bun_alone else "Using Bun")
    else:
        from shipway.buildpacks.nodejs import tools

        layer.empty()
        if manager.name == "bun":
            say.step(f"Installing Bun {manager.wanted}")
            tools.install_bun(context, layer, manager.wanted, as_node=bun_alone)
        if not bun_alone:
            where = f" ({source})" if source else " (the default; engines.node in package.json)"
            say.step(f"Installing Node.js {wanted}{where}")
            node = tools.Node(context, wanted, source)
            version = node.install(layer, headers)
            npm = Manager("npm", "", semver.Range("*"))
            for each in {npm.name: npm, manager.name: manager}.values():
                if each.name != "bun":
                    node.add(layer, each, version)
        layer.set_env({"NODE_ENV": "production"})
        layer.prepend_path(f"{context.app}/node_modules/.bin", phase="launch")
    layer.keep(made_from, launch=not app.assets_only, build=True, cache=True, asked=asked)
    if not bun_alone:
        headers.keep(made_from, build=True, cache=True)
        # Native packages find the headers here and fetch none.
        app.env["npm_config_nodedir"] = headers.path
    app.env["PATH"] = f"{layer.path}/bin:{app.env['PATH']}"
    return made_from


def _layered(app: App, runtime: str) -> None:
    """Packages in layers: `dev` with all for the build script, `modules` with what production needs."""
    dev, kept = Layer(app.context, "dev"), Layer(app.context, "modules")
    made_from = _packages_fingerprint(app, runtime)
    needs_dev = bool(app.script)
    fresh = not kept.made_from(made_from) or (needs_dev and not dev.made_from(made_from))
    if fresh:
        _install(app)
        os.makedirs("node_modules", exist_ok=True)  # an app without a dependency has none
        if needs_dev:
            dev.empty()
            _execute(app, ["cp", "-a", "node_modules", dev.path])
        _prune(app)
        kept.empty()
        _execute(app, ["mv", "node_modules", kept.path])
    else:
        say.step(f"Using the packages of the previous build ({_source(app)} is unchanged)")
        _remove_node_modules()
    if needs_dev:
        _link(dev)
        if not fresh:
            _run_install_scripts(app)
        since = _scratch(app, dev)
        _run_script(app)
        _carry_over(dev.path, kept.path, since)
        dev.keep(made_from, cache=True)
        os.unlink("node_modules")
    if app.assets_only:
        kept.keep(made_from, cache=True)
        return
    _link(kept)
    if not fresh and not needs_dev:
        _run_install_scripts(app)
    kept.keep(made_from, launch=True, cache=True)


def _install(app: App) -> None:
    if not app.manager.lock:
        say.detail("There is no lock file: each build may get other versions. Commit one.")
    command = app.manager.install
    say.step(f"Installing packages using '{' '.join(command)}'")
    _remove_node_modules()
    _command(
        app, command, f"Installing the packages failed; {command[0]} says above what is wrong."
    )


def _run_script(app: App) -> None:
    if app.script:
        say.step(f"Running the script {app.script!r}")
        command = [app.manager.name, "run", app.script]
        _command(app, command, f"The script {app.script!r} of package.json failed; see above.")


def _run_install_scripts(app: App) -> None:
    """The app's own, which an installation would run: what they make may depend on its code."""
    for name in INSTALL_SCRIPTS:
        if app.manifest.scripts.get(name):
            _command(
                app, [app.manager.name, "run", name], f"The script {name!r} failed; see above."
            )


def _prune(app: App) -> None:
    """Leave out what only development needs; a package.json without such has nothing to prune."""
    if '"devDependencies"' not in files.text(manifests.NAME) and not app.manager.modern:
        return
    say.step("Removing packages that only development needs")
    if app.manager.name == "bun":
        _remove_node_modules()  # it cannot prune, and installs from its cache in no time
    _command(app, app.manager.prune, "Removing development's packages failed; see above.")


def _command(app: App, args: list[str], failed: str) -> None:
    from shipway.buildpacks.kit import network
    from shipway.buildpacks.kit.run import run

    done = run(args, app.env)
    if done.code == 0:
        return
    if any(sign in line for line in done.lines for sign in managers.STALE):
        raise CannotBuild(
            f"{app.manager.lock or 'The lock file'} does not fit package.json.",
            f"Run `{app.manager.name} install`, commit {app.manager.lock} and push again.",
        )
    raise CannotBuild(failed, *network.advice(done.output, ["npm_config_registry"]))


def _execute(app: App, args: list[str]) -> None:
    _command(app, args, f"{args[0]} failed; see above.")


def _packages_fingerprint(app: App, runtime: str) -> str:
    relevant = {
        key: value
        for key, value in json.loads(files.text(manifests.NAME)).items()
        if key not in IRRELEVANT
    }
    scripts = {name: app.manifest.scripts.get(name) for name in INSTALL_SCRIPTS}
    patches = [
        os.path.join(folder, name)
        for top in ("patches", ".yarn/patches")
        for folder, _, names in os.walk(top)
        for name in names
    ]
    names = [*files.there(app.manager.lock, *SETTINGS), *sorted(patches)]
    more = json.dumps([relevant, scripts, bool(app.script)], sort_keys=True)
    return files.fingerprint(names, RECIPE, runtime, app.context.distro, more)


def _local(text: str) -> list[str]:
    """Dependencies that lie in the app: `file:`, `link:` and paths."""
    document = json.loads(text)
    return [
        name
        for kind in ("dependencies", "devDependencies", "optionalDependencies")
        for name, value in (document.get(kind) or {}).items()
        if str(value).startswith(("file:", "link:", "portal:", "workspace:", ".", "/"))
    ]


def _source(app: App) -> str:
    return app.manager.lock or manifests.NAME


def _remove_node_modules() -> None:
    """One that was committed is not what this machine needs."""
    if os.path.islink("node_modules"):
        os.unlink("node_modules")
    elif os.path.isdir("node_modules"):
        import shutil

        shutil.rmtree("node_modules")


def _link(layer: Layer) -> None:
    os.symlink(os.path.join(layer.path, "node_modules"), "node_modules")


def _scratch(app: App, dev: Layer) -> float:
    """Keep what tools write into node_modules for themselves out of the layer.

    Else it would be another one after every build. Gives the time from which on files are new.
    """
    top = app.context.cached("node/tools") or "/tmp/node"
    modules = os.path.join(dev.path, "node_modules")
    if not os.path.lexists(f"{top}/node_modules"):
        os.makedirs(top, exist_ok=True)
        os.symlink(modules, f"{top}/node_modules")  # what is written there can import packages
    for name in (".cache", ".vite", ".vite-temp"):
        os.makedirs(f"{top}/own/{name}", exist_ok=True)
        path = os.path.join(modules, name)
        if not os.path.lexists(path):
            os.symlink(f"{top}/own/{name}", path)
    return time.time()


def _carry_over(source: str, target: str, since: float) -> None:
    """Copy files that the build script wrote into packages to the ones that the image keeps."""
    import shutil

    for folder, folders, names in os.walk(os.path.join(source, "node_modules")):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(folder, name))]
        inner = os.path.relpath(folder, source)
        parts = inner.split(os.sep)[1:]
        package = (
            os.path.join(target, "node_modules", *parts[: 1 + parts[0].startswith("@")])
            if parts
            else ""
        )
        if not package or not (os.path.isdir(package) or parts[0].startswith(".")):
            continue
        for name in names:
            path = os.path.join(folder, name)
            if os.lstat(path).st_ctime >= since and not os.path.islink(path):
                os.makedirs(os.path.join(target, inner), exist_ok=True)
                shutil.copy2(path, os.path.join(target, inner, name))
