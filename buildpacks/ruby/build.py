"""Debian's Ruby, the gems of the Gemfile.lock, Rails' assets, and a web process."""

import glob
import os
from collections.abc import Mapping

from shipway.buildpacks.kit import debian, files, network, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.ruby import lockfile

RECIPE = "1"
PACKAGES = ("ruby", "ruby-dev", "ruby-bundler", "libyaml-dev")
# Tools to develop with, that come along with Ruby.
UNWANTED = (
    "usr/share/gems",
    "usr/share/javascript",
    "usr/share/ri",
    "usr/share/rubygems-integration/all/doc",
)
SETTINGS = ("BUNDLE_MIRROR__ALL", "BUNDLE_MIRROR__ALL__FALLBACK_TIMEOUT")


def build(context: Context) -> None:
    """Make the layers `ruby`, `headers` and `gems`. Raises CannotBuild."""
    if not files.there("Gemfile.lock"):
        raise CannotBuild(
            "There is a Gemfile and no Gemfile.lock, so nothing says which versions are meant.",
            "Run `bundle lock --add-platform x86_64-linux`, commit Gemfile.lock and push again.",
        )
    lock = lockfile.parse(files.text("Gemfile.lock"))
    ruby = Layer(context, "ruby")
    made_from = _install_ruby(context, ruby)
    env = _environment(context, ruby)
    version = run.output([f"{ruby.path}/usr/bin/ruby", "-e", "print RUBY_VERSION"], env) or ""
    _check_version(context, lock, version)
    gems = Layer(context, "gems")
    _install_gems(context, gems, env, made_from)
    env["PATH"] = f"{_gems_bin(gems, version)}{os.pathsep}{env['PATH']}"
    _precompile(lock, env)
    _processes(context, lock)


def _install_ruby(context: Context, ruby: Layer) -> str:
    """Have Ruby in the layer `ruby`, and what extensions are compiled with in `headers`."""
    headers = Layer(context, "headers")
    made_from = debian.fingerprint(PACKAGES, True, RECIPE)
    if ruby.made_from(made_from) and headers.made_from(made_from):
        packages = {}
    else:
        say.step(f"Installing Ruby from {context.stack}'s packages")
        found = debian.provide(context, ruby, PACKAGES, launch=True)
        debian.prune(ruby.path, UNWANTED)
        headers.empty()
        # Extensions look for headers beside Ruby; the image has no need of them.
        os.rename(f"{ruby.path}/usr/include", f"{headers.path}/include")
        os.symlink(f"{headers.path}/include", f"{ruby.path}/usr/include")
        _write_env(ruby)
        packages = {"packages": debian.versions(found)}
    ruby.keep(made_from, launch=True, build=True, cache=True, **packages)
    headers.keep(made_from, build=True, cache=True)
    return made_from


def _write_env(ruby: Layer) -> None:
    version = next(name for name in os.listdir(f"{ruby.path}/usr/lib/ruby") if name[0].isdecimal())
    usr = f"{ruby.path}/usr"
    here, arch = f"{usr}/lib/ruby", f"{usr}/lib/{debian.TRIPLET}/ruby"
    libraries = (
        f"{here}/vendor_ruby",
        f"{arch}/vendor_ruby/{version}",
        f"{here}/{version}",
        f"{arch}/{version}",
    )
    gems = (
        f"{here}/gems/{version}",
        f"{arch}/gems/{version}",
        f"{usr}/share/rubygems-integration/{version}",
        f"{usr}/share/rubygems-integration/all",
    )
    values = {
        "RUBYLIB": os.pathsep.join(libraries),
        "GEM_PATH": os.pathsep.join(path for path in gems if os.path.isdir(path)),
    }
    for name, value in values.items():
        ruby.set_env({name: value}, phase="", action="prepend", delimiter=os.pathsep)
    ruby.set_env(
        {
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "2",
            "RACK_ENV": "production",
            "RAILS_ENV": "production",
            "RAILS_LOG_TO_STDOUT": "enabled",
            "RAILS_SERVE_STATIC_FILES": "enabled",
        }
    )


def _environment(context: Context, ruby: Layer) -> dict[str, str]:
    """The environment of Ruby within this build: the same that its layer gives to later ones."""
    env = dict(context.env)
    for file in sorted(glob.glob(f"{ruby.path}/env*/*.prepend")):
        name = os.path.basename(file).removesuffix(".prepend")
        with open(file, encoding="utf-8") as opened:
            env[name] = os.pathsep.join(filter(None, (opened.read(), env.get(name))))
    env.update(LANG="C.UTF-8", RACK_ENV="production", RAILS_ENV="production")
    return env


def _check_version(context: Context, lock: lockfile.Lock, version: str) -> None:
    """Say which Ruby it is. Raises CannotBuild when the app asks for another line."""
    asked = {"Gemfile.lock": lock.ruby}
    if files.there(".ruby-version"):
        asked[".ruby-version"] = files.text(".ruby-version", 4096).strip()
    line = lockfile.line_of(version)
    for source, text in asked.items():
        if text and lockfile.line_of(text) != line:
            raise CannotBuild(
                f"{source} asks for Ruby {text[:40]}, but {context.stack} has {version}.",
                f'Write ruby "~> {line}.0" into the Gemfile, run `bundle lock`, and push again.',
            )
    say.step(f"Using Ruby {version} of the {context.stack} stack")


def _install_gems(context: Context, gems: Layer, env: dict[str, str], made_from: str) -> None:
    """Install into the layer `gems` what is locked, less what only developers need."""
    without = env.setdefault("BUNDLE_WITHOUT", "development:test")
    values = {
        "BUNDLE_PATH": gems.path,
        "BUNDLE_WITHOUT": without,
        "BUNDLE_DEPLOYMENT": "1",
        "BUNDLE_DISABLE_VERSION_CHECK": "1",
    }
    env.update(values, BUNDLE_FROZEN="1", BUNDLE_JOBS="4", BUNDLE_RETRY="1", BUNDLE_TIMEOUT="15")
    # Another bundler than the one that is here would have to be fetched first.
    env["BUNDLE_VERSION"] = values["BUNDLE_VERSION"] = "system"
    env["BUNDLE_USER_HOME"] = "/tmp/bundle"
    cached = sorted(os.listdir("vendor/cache")) if os.path.isdir("vendor/cache") else []
    local = any("path:" in line for line in files.text("Gemfile").splitlines())
    key = files.fingerprint(
        ("Gemfile", "Gemfile.lock", ".ruby-version"), made_from, without, *cached
    )
    if not local and gems.made_from(key):
        say.step("Using the gems of the previous build (Gemfile.lock is unchanged)")
    else:
        gems.empty()
        _bundle(env, vendored=bool(cached))
        _prune_gems(gems)
        gems.set_env(values, phase="", action="override")
        for folder in _bins(gems):
            gems.prepend_path(folder)
    gems.keep(None if local else key, launch=True, build=True, cache=True)
    if cached:
        import shutil

        shutil.rmtree("vendor/cache")  # what was installed from it is in the layer


def _bundle(env: Mapping[str, str], *, vendored: bool) -> None:
    """Run bundler: with vendor/cache alone, if there is one and it is enough."""
    say.step(f"Installing gems using 'bundle install'{' from vendor/cache' if vendored else ''}")
    ways = (("--local",), ()) if vendored else ((),)
    done = run.Done(0, ())
    for number, options in enumerate(ways, 1):
        done = run.run(["bundle", "install", *options], env)
        if done.code == 0:
            return
        if number < len(ways):
            say.detail("vendor/cache is not enough; asking the Gemfile's sources, too.")
    advice = network.advice(done.output, ("BUNDLE_MIRROR__ALL",))
    if advice:
        raise CannotBuild(*advice, "Or commit the gems: bundle cache; git add vendor/cache.")
    if "Your Ruby version is" in done.output:
        raise CannotBuild(
            "The Gemfile asks for another patch release of Ruby than the stack has.",
            'A line such as ruby "~> 3.3.0" takes any of them.',
        )
    raise CannotBuild("Installing the gems failed; bundler says above what is wrong.")


def _prune_gems(gems: Layer) -> None:
    """Remove what an installation leaves that no app needs, and that differs from one to the next."""
    import shutil

    for folder, folders, names in os.walk(gems.path):
        for name in ("cache", "doc", "build_info"):
            if name in folders and os.path.basename(os.path.dirname(folder)) == "ruby":
                folders.remove(name)
                shutil.rmtree(f"{folder}/{name}")
        for name in names:
            if name in {"gem_make.out", "mkmf.log"} or name.endswith(".o"):
                os.unlink(f"{folder}/{name}")


def _bins(gems: Layer) -> list[str]:
    base = f"{gems.path}/ruby"
    versions = os.listdir(base) if os.path.isdir(base) else []
    return [f"{base}/{name}/bin" for name in versions if os.path.isdir(f"{base}/{name}/bin")]


def _gems_bin(gems: Layer, version: str) -> str:
    return f"{gems.path}/ruby/{lockfile.line_of(version)}.0/bin"


def _precompile(lock: lockfile.Lock, env: Mapping[str, str]) -> None:
    """Let Rails make its assets, if it has a pipeline for them."""
    if "railties" not in lock.gems or not lock.gems & {"sprockets-rails", "propshaft", "sprockets"}:
        return
    if not files.there("Rakefile"):
        return
    say.step("Making the assets using 'rake assets:precompile'")
    dummy = {"SECRET_KEY_BASE_DUMMY": "1", "SECRET_KEY_BASE": "only-for-this-build", **env}
    dummy.setdefault("DATABASE_URL", "nulldb://user:pass@127.0.0.1/none")
    done = run.run(["bundle", "exec", "rake", "assets:precompile"], dummy)
    if done.code:
        raise CannotBuild("rake assets:precompile failed; it says above what is wrong.")


def _processes(context: Context, lock: lockfile.Lock) -> None:
    """The web process of an app without a Procfile."""
    command = None
    if "railties" in lock.gems and files.there("config/application.rb"):
        command = "bundle exec rails server --binding 0.0.0.0 --port $PORT"
    elif files.there("config.ru") and "puma" in lock.gems:
        command = "bundle exec puma --bind tcp://0.0.0.0:$PORT config.ru"
    elif files.there("config.ru"):
        command = "bundle exec rackup --host 0.0.0.0 --port $PORT config.ru"
    if command is None:
        return
    process = {"type": "web", "command": ["bash", "-c", command], "default": True}
    toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})
