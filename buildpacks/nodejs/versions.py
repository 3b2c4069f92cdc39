"""Which Node.js an app asks for."""

from shipway.buildpacks.kit import files, semver
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.nodejs.manifest import NAME, Manifest

DEFAULT = "24.x"  # the line in long-term support when this was written
# Names of the lines in long-term support; newer apps name numbers.
_LINES = {
    "argon": 4,
    "boron": 6,
    "carbon": 8,
    "dubnium": 10,
    "erbium": 12,
    "fermium": 14,
    "gallium": 16,
    "hydrogen": 18,
    "iron": 20,
    "jod": 22,
    "krypton": 24,
}


def asked(manifest: Manifest) -> tuple[semver.Range, str]:
    """The range that the app asks for, and where it does. Raises CannotBuild."""
    if "node" in manifest.engines:
        return _range(manifest.engines["node"], f"engines.node in {NAME}")
    for name in files.there(".nvmrc", ".node-version"):
        words = [line.partition("#")[0].strip() for line in files.text(name, 4096).splitlines()]
        text = next(filter(None, words), "")
        if text:
            return _range(text, name)
    return semver.Range(DEFAULT), ""


def _range(text: str, source: str) -> tuple[semver.Range, str]:
    word = text.strip().lower()
    if word in ("node", "stable", "latest", "current"):
        return semver.Range("*"), source
    if word in ("lts", "lts/*", "lts/-1"):
        return semver.Range(DEFAULT), source
    if word.startswith("lts/"):
        if word[4:] not in _LINES:
            raise CannotBuild(
                f"{source} asks for {text[:40]!r}, and there is no such line of Node.js.",
                f"Expected a version or a range, such as {DEFAULT}.",
            )
        return semver.Range(f"{_LINES[word[4:]]}.x"), source
    try:
        return semver.Range(word.removeprefix("node-")), source
    except semver.InvalidRange:
        raise CannotBuild(
            f"{source} says {text[:40]!r}, which is no version or range of Node.js.",
            f"Expected one such as {DEFAULT}, ^22.3 or >=20 <25.",
        ) from None
