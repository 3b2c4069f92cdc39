"""Debian's PHP with the extensions that the app asks for, behind Debian's nginx."""

import glob
import os
import shutil
from collections.abc import Mapping, Sequence

from shipway.buildpacks.kit import debian, files, network, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.php import composerjson

RECIPE = "1"
# What php-fpm and nginx suggest to a machine that is booted.
WITHOUT = (
    "dbus*",
    "iproute2",
    "libbpf1",
    "libcap2-bin",
    "libmnl0",
    "libpam-*",
    "libtirpc*",
    "libxtables12",
    "php*-readline",
    "psmisc",
    "systemd*",
    "libsystemd-shared",
    "ucf",
)
UNWANTED = (
    "usr/share/vim",
    "usr/share/nginx",
    "var",
    "usr/share/initramfs-tools",
    "usr/lib/systemd",
)
ROOT = "DOCUMENT_ROOT"


def build(context: Context) -> None:
    """Make the layers `php`, `composer` and `web`. Raises CannotBuild."""
    has_composer = bool(files.there(composerjson.NAME))
    composer = composerjson.parse(files.text(composerjson.NAME) if has_composer else "{}")
    root = _document_root(context, composer)
    php = Layer(context, "php")
    _install_php(context, php, composer)
    env = _environment(context, php)
    if has_composer:
        _install_packages(context, env, composer)
    _write_web(context, php, root)
    command = [os.path.join(context.layers, "web", "bin", "serve-php")]
    processes = [{"type": "web", "command": command, "default": True}]
    toml.write(os.path.join(context.layers, "launch.toml"), {"processes": processes})


def _document_root(context: Context, composer: composerjson.Composer) -> str:
    """The folder that the web shows, below the app's. Raises CannotBuild."""
    source = ROOT if context.env.get(ROOT) else "composer.json"
    asked = context.env.get(ROOT) or composer.root
    if asked:
        path = os.path.realpath(os.path.join(context.app, asked))
        app = os.path.realpath(context.app)
        if not os.path.isdir(path) or not (path + "/").startswith(app + "/"):
            raise CannotBuild(f"{source} names {asked[:80]!r}, expected a folder of the app.")
    else:
        names = [name for name in ("public", "web", "webroot") if files.there(f"{name}/index.php")]
        path = os.path.join(context.app, names[0] if names else "")
    say.step(f"Serving {os.path.relpath(path, context.app).replace('.', 'the top folder', 1)}")
    return path.rstrip("/")


def _install_php(context: Context, php: Layer, composer: composerjson.Composer) -> None:
    """Have PHP and nginx in the layer `php`."""
    wanted = dict.fromkeys((*composerjson.USUAL, *composer.extensions))
    wanted.pop("opcache")
    names = ["php-cli", "php-fpm", "nginx-light", *(f"php-{name}" for name in wanted)]
    made_from = debian.fingerprint(names, True, RECIPE)
    if php.made_from(made_from):
        say.step("Using the PHP of the previous build")
        php.keep(made_from, launch=True, build=True, cache=True)
    else:
        say.step(f"Installing PHP from {context.stack}'s packages")
        packages = debian.provide(context, php, names, launch=True, without=WITHOUT)
        debian.prune(php.path, UNWANTED)
        _configure(php)
        versions = debian.versions(packages)
        php.keep(made_from, launch=True, build=True, cache=True, packages=versions)
    version = _version(php)
    say.step(f"Using PHP {version} of the {context.stack} stack")
    say.detail(f"Extensions beyond PHP's own: {', '.join(sorted(wanted))}")


def _version(php: Layer) -> str:
    """`8.4`."""
    return min(name for name in os.listdir(f"{php.path}/etc/php"))


def _configure(php: Layer) -> None:
    """Write php.ini and switch on all extensions that are there."""
    version = _version(php)
    source = f"{php.path}/usr/lib/php/{version}/php.ini-production"
    folder = f"{php.path}/conf.d"
    os.makedirs(folder)
    shutil.copyfile(source, f"{php.path}/php.ini")
    (api,) = (name for name in os.listdir(f"{php.path}/usr/lib/php") if name.isdecimal())
    extensions = f"{php.path}/usr/lib/php/{api}"
    with open(f"{folder}/00-shipway.ini", "w", encoding="utf-8") as file:
        file.write(
            f'extension_dir = "{extensions}"\nexpose_php = Off\nerror_log = /dev/stderr\n'
            "log_errors = On\nvariables_order = EGPCS\nupload_max_filesize = 64M\n"
            "post_max_size = 64M\nopcache.validate_timestamps = 0\nsys_temp_dir = /tmp\n"
        )
    for path, _, names in os.walk(f"{php.path}/usr/share"):
        for name in names:
            if name.endswith(".ini") and os.path.exists(f"{extensions}/{name[:-4]}.so"):
                with open(f"{path}/{name}", encoding="utf-8") as file:
                    text = file.read()
                priority = text.partition("priority=")[2][:2].strip() or "20"
                shutil.copyfile(f"{path}/{name}", f"{folder}/{priority}-{name}")
    if not os.path.lexists(f"{php.path}/usr/bin/php"):
        os.symlink(f"php{version}", f"{php.path}/usr/bin/php")
    php.set_env({"PHPRC": php.path, "PHP_INI_SCAN_DIR": folder}, phase="", action="default")


def _environment(context: Context, php: Layer) -> dict[str, str]:
    env = {**context.env, "PHPRC": php.path, "PHP_INI_SCAN_DIR": f"{php.path}/conf.d"}
    for name, value in debian.env_values(php.path).items():
        env[name] = os.pathsep.join(filter(None, (value, env.get(name))))
    return env


def _install_packages(
    context: Context, env: dict[str, str], composer: composerjson.Composer
) -> None:
    """Run composer, unless what it would install is committed, or there is nothing to install."""
    if files.there("vendor/autoload.php"):
        say.step("Using the packages in vendor/, which are committed")
        return
    if composer.has_packages and not files.there("composer.lock"):
        raise CannotBuild(
            "There is a composer.json and no composer.lock, so nothing says which versions are"
            " meant.",
            "Run `composer update`, commit composer.lock and push again.",
        )
    tool = Layer(context, "composer")
    names = ["composer", "php-intl"]  # composer itself needs that extension
    made_from = debian.fingerprint(names, True, RECIPE)
    if not tool.made_from(made_from):
        say.step(f"Installing composer from {context.stack}'s packages")
        debian.provide(
            context, tool, names, launch=True, without=("php[0-9].[0-9]-[!i]*", *WITHOUT)
        )
        _move(tool.path)
    tool.keep(made_from, cache=True)
    say.step("Installing packages using 'composer install --no-dev'")
    done = _composer(context, tool, env)
    if done.code:
        advice = network.advice(done.output, ("COMPOSER_MIRROR",))
        if advice:
            raise CannotBuild(*advice, "Or commit the packages: git add --force vendor.")
        raise CannotBuild("Installing the packages failed; composer says above what is wrong.")


def _move(root: str) -> None:
    """Let Debian's PHP libraries, which name each other by their full paths, find each other."""
    for folder, _, names in os.walk(f"{root}/usr/share/php"):
        for name in names:
            path = f"{folder}/{name}"
            if name.endswith(".php") and not os.path.islink(path):
                with open(path, "rb") as file:
                    text = file.read()
                moved = text.replace(b"'/usr/share/", f"'{root}/usr/share/".encode())
                with open(path, "wb") as file:
                    file.write(moved)


def _composer(context: Context, tool: Layer, env: Mapping[str, str]) -> run.Done:
    share = f"{tool.path}/usr/share/php"
    home = context.cached("composer") or "/tmp/composer"
    own = {
        **env,
        "COMPOSER_HOME": home,
        "COMPOSER_CACHE_DIR": f"{home}/cache",
        "COMPOSER_NO_INTERACTION": "1",
        "COMPOSER_PROCESS_TIMEOUT": "300",
    }
    mirror = env.get("COMPOSER_MIRROR")
    own["LD_LIBRARY_PATH"] += os.pathsep + debian.env_values(tool.path)["LD_LIBRARY_PATH"]
    php = ["php", "-d", f"include_path={share}"]
    (intl,) = glob.glob(f"{tool.path}/usr/lib/php/*/intl.so")
    if not glob.glob(f"{env['PHP_INI_SCAN_DIR']}/*-intl.ini"):
        php += ["-d", f"extension={intl}"]
    php.append(f"{tool.path}/usr/bin/composer")
    if mirror:
        run.run([*php, "config", "--global", "repos.packagist", "composer", mirror], own)
    options = ("--no-dev", "--no-progress", "--optimize-autoloader", "--no-ansi")
    return run.run([*php, "install", *options], own)


def _write_web(context: Context, php: Layer, root: str) -> None:
    """Write the program that starts php-fpm and nginx as one process."""
    layer = Layer(context, "web")
    layer.empty()
    os.makedirs(f"{layer.path}/bin")
    here = os.path.dirname(__file__)
    values = {
        "@ROOT@": root,
        "@PHP@": php.path,
        "@VERSION@": _version(php),
        "@WEB@": layer.path,
        "@FRONT@": _front_controller(root),
    }
    for name in ("nginx.conf", "php-fpm.conf", "bin/serve-php"):
        with open(f"{here}/serve/{os.path.basename(name)}", encoding="utf-8") as file:
            text = file.read()
        for mark, value in values.items():
            text = text.replace(mark, value)
        with open(f"{layer.path}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    os.chmod(f"{layer.path}/bin/serve-php", 0o755)  # noqa: S103 -- a program for all
    layer.keep(None, launch=True)


def _front_controller(root: str) -> str:
    """What answers for a path that is no file: the app, where it has an index.php."""
    has_index: Sequence[str] = [name for name in os.listdir(root) if name == "index.php"]
    return "/index.php?$query_string" if has_index else "=404"
