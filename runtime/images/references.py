"""Names of images as Docker has them: what a person types, and what it stands for.

`nginx`, `nginx:latest` and `docker.io/library/nginx:latest` are one image. In the store it is
known by the short form with its tag, `nginx:latest`; registries are asked for the full form.
"""

import re
from dataclasses import dataclass

from shipway.runtime.errors import InvalidReference
from shipway.runtime.images.blobs import is_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
LONGEST_NAME = 255

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in full: `domain` may have a port; of `tag` and `digest` either may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """The full name without tag and digest, as registries are asked for it."""
        return f"{self.domain}/{self.path}"

    @property
    def short_repository(self) -> str:
        """The name without tag and digest as people see it: docker.io's go without their host."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path

    @property
    def short(self) -> str:
        """The name that the store and people know it by; always with a tag or a digest."""
        return self.short_repository + self._suffix()

    @property
    def full(self) -> str:
        """The name with its registry's host."""
        return self.repository + self._suffix()

    def _suffix(self) -> str:
        if self.digest:
            return f"@{self.digest}"
        return f":{self.tag or DEFAULT_TAG}"


def parse(text: str) -> Reference:
    """The reference that a person means. Raises InvalidReference, which says what is wrong."""
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, f"{digest!r} is no digest: one is sha256: and 64 hex digits")
    name, tag = _split_tag(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(
            text,
            f"the tag {tag!r} must be 1 to 128 letters, digits, '_', '.' and '-',"
            " not beginning with '.' or '-'",
        )
    domain, path = _split_domain(name)
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is no host of a registry")
    if path != path.lower():
        raise _invalid(text, "a repository's name must be in lower case")
    if not _PATH.fullmatch(path):
        raise _invalid(
            text,
            "a repository's name has parts of lower-case letters and digits, parted by '/',"
            " '.', '_' or '-'",
        )
    if len(domain) + 1 + len(path) > LONGEST_NAME:
        raise _invalid(text, f"a repository's name has at most {LONGEST_NAME} characters")
    return Reference(domain, path, tag or ("" if digest else DEFAULT_TAG), digest)


def parse_tag(text: str) -> Reference:
    """The reference that an image is to be known by: as `parse`, but a digest cannot be given."""
    found = parse(text)
    if found.digest:
        raise _invalid(text, "an image gets a name and a tag; its digest follows from its content")
    return found


def _split_tag(name: str) -> tuple[str, str | None]:
    """The last colon begins a tag, unless a slash follows it: then it is a port's."""
    before, colon, after = name.rpartition(":")
    return (before, after) if colon and "/" not in after else (name, None)


def _split_domain(name: str) -> tuple[str, str]:
    """What is before the first slash is a host if it looks like one: a dot, a port, localhost."""
    first, slash, rest = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    domain, path = (first, rest) if is_host else (DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _invalid(text: str, why: str) -> InvalidReference:
    return InvalidReference(f"{text!r} is no reference of an image: {why}")
