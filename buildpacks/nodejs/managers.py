"""Package managers: which one an app uses, and what each is told."""

from collections.abc import Mapping
from typing import NamedTuple

from shipway.buildpacks.kit import files, semver
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.nodejs.manifest import NAME, Manifest, PackageManager

LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "yarn.lock": "yarn",
    "pnpm-lock.yaml": "pnpm",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
# Where nothing pins a version: those that read the lock files of today.
DEFAULTS = {"npm": "*", "yarn": "1.x", "pnpm": "10.x", "bun": "1.x"}
# What each says when its lock file does not fit package.json.
STALE = (
    "npm ci` can only install packages when your package.json",
    "can only install with an existing package-lock.json",
    "ERR_PNPM_OUTDATED_LOCKFILE",
    "ERR_PNPM_LOCKFILE_CONFIG_MISMATCH",
    "Your lockfile needs to be updated",
    "The lockfile would have been modified by this install",
    "lockfile had changes, but lockfile is frozen",
)


class Manager(NamedTuple):
    """A package manager as an app uses it. `lock` is empty where there is none; `modern` Yarn is 2+."""

    name: str
    lock: str
    wanted: semver.Range
    digest: str = ""
    modern: bool = False

    @property
    def package(self) -> str:
        """Its package at the registry."""
        return "@yarnpkg/cli-dist" if self.modern else self.name

    @property
    def install(self) -> list[str]:
        """The command that installs everything, development's packages too."""
        if self.name == "npm":
            return ["npm", "ci" if self.lock else "install", "--include=dev"]
        if self.modern:
            return ["yarn", "install", "--immutable"] if self.lock else ["yarn", "install"]
        frozen = ["--frozen-lockfile"] if self.lock else []
        extra = {"yarn": ["--production=false", "--non-interactive"], "pnpm": ["--prod=false"]}
        return [self.name, "install", *frozen, *extra.get(self.name, [])]

    @property
    def prune(self) -> list[str]:
        """The command that leaves what production needs."""
        if self.modern:
            return ["yarn", "workspaces", "focus", "--all", "--production"]
        return {
            "npm": ["npm", "prune", "--omit=dev", "--ignore-scripts"],
            "pnpm": ["pnpm", "prune", "--prod", "--ignore-scripts"],
            "bun": ["bun", "install", "--production", "--frozen-lockfile", "--ignore-scripts"],
            "yarn": [
                *("yarn", "install", "--production", "--frozen-lockfile", "--ignore-scripts"),
                *("--prefer-offline", "--non-interactive"),
            ],
        }[self.name]

    def env(self, cache: str | None) -> Mapping[str, str]:
        """Its settings: where downloads are kept, and nothing that asks or advertises."""
        env = {
            "CI": "true",
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_progress": "false",
            "npm_config_update_notifier": "false",
            "npm_config_fetch_retries": "1",
            "npm_config_fetch_timeout": "60000",
            "npm_config_loglevel": "error",
            "npm_config_manage_package_manager_versions": "false",
            "YARN_ENABLE_TELEMETRY": "0",
            "YARN_ENABLE_PROGRESS_BARS": "0",
            "YARN_IGNORE_PATH": "0",
            "NO_UPDATE_NOTIFIER": "1",
            "NO_COLOR": "1",
        }
        if cache is not None:
            env.update(
                npm_config_cache=f"{cache}/npm",
                npm_config_store_dir=f"{cache}/pnpm",
                npm_config_cache_dir=f"{cache}/pnpm-cache",
                YARN_CACHE_FOLDER=f"{cache}/yarn{'-modern' if self.modern else ''}",
                YARN_ENABLE_GLOBAL_CACHE="false",
                BUN_INSTALL_CACHE_DIR=f"{cache}/bun",
            )
        return env


def choose(manifest: Manifest) -> Manager:
    """The package manager of the lock file, or of `packageManager`. Raises CannotBuild."""
    locks = files.there(*LOCKS)
    if locks == ["package-lock.json", "npm-shrinkwrap.json"]:
        locks = ["npm-shrinkwrap.json"]  # npm's own rule
    if {"bun.lock", "bun.lockb"} <= set(locks):
        locks.remove("bun.lockb")
    pinned = manifest.manager
    if pinned is not None:
        return _pinned(manifest, pinned, locks)
    if len({LOCKS[lock] for lock in locks}) > 1:
        raise CannotBuild(
            f"There are lock files of several package managers: {' and '.join(locks)}.",
            "Expected one: delete the others (git rm), or name the package manager in"
            f' {NAME}, such as "packageManager": "pnpm@10.0.0".',
        )
    lock = locks[0] if locks else ""
    name = LOCKS.get(lock, "npm")
    return _manager(name, lock, _wanted(manifest, name))


def _pinned(manifest: Manifest, pinned: PackageManager, locks: list[str]) -> Manager:
    own = [lock for lock in locks if LOCKS[lock] == pinned.name]
    if locks and not own:
        raise CannotBuild(
            f"packageManager in {NAME} is {pinned.name}, but the lock file is {locks[0]}"
            f" of {LOCKS[locks[0]]}.",
            f"Make one with `{pinned.name} install` and delete {locks[0]}, or change packageManager.",
        )
    lock = own[0] if own else ""
    return _manager(pinned.name, lock, semver.Range(pinned.version), pinned.digest)


def _manager(name: str, lock: str, wanted: semver.Range, digest: str = "") -> Manager:
    modern = False
    if name == "yarn":
        # A lock file of Yarn 2 and later says so in its first lines.
        modern = bool(lock) and "__metadata:" in files.text(lock)
        if wanted.allows(semver.Version(1, 22, 22)):
            modern = modern and str(wanted) in (DEFAULTS["yarn"], "*")
        else:
            modern = modern or not str(wanted).strip("^~=v ").startswith("1")
        if modern and str(wanted) == DEFAULTS["yarn"]:
            wanted = semver.Range("4.x")
    return Manager(name, lock, wanted, digest, modern)


def _wanted(manifest: Manifest, name: str) -> semver.Range:
    text = manifest.engines.get(name, DEFAULTS[name])
    try:
        return semver.Range(text)
    except semver.InvalidRange:
        raise CannotBuild(
            f"engines.{name} in {NAME} says {text[:40]!r}, which is no version or range.",
            "Expected one such as 10.x or >=9 <12.",
        ) from None
