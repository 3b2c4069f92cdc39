"""Names of images, read as Docker reads them."""

import pytest

from shipway.runtime.errors import InvalidReference
from shipway.runtime.images.references import parse, parse_tag

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("team/app:v1", "docker.io/team/app:v1", "team/app:v1"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("ghcr.io/a/b/c:X_1.2-3", "ghcr.io/a/b/c:X_1.2-3", "ghcr.io/a/b/c:X_1.2-3"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", "a__b/c-d.e:latest"),
    ],
)
def test_names(text: str, full: str, short: str) -> None:
    """A short name stands for Docker's own registry and the tag latest; the short form leads back."""
    found = parse(text)
    assert (found.full, found.short) == (full, short)
    assert parse(found.short).full == full


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "parts of lower-case"),
        ("Nginx", "lower case"),
        ("UPPER/x", "lower case"),
        ("a:b:c", "parts of lower-case"),
        ("a:", "the tag ''"),
        ("a:-x", "the tag '-x'"),
        ("a:" + "x" * 129, "the tag"),
        ("a//b", "parts of lower-case"),
        ("a b", "parts of lower-case"),
        ("-a", "parts of lower-case"),
        ("a\n", "parts of lower-case"),
        ("ex_ample.com/a", "no host"),
        ("localhost:port/a", "no host"),
        ("nginx@sha256:12", "no digest"),
        ("nginx@md5:" + "a" * 32, "no digest"),
        ("x" * 250, "at most 255"),
    ],
)
def test_what_is_no_name(text: str, why: str) -> None:
    """A wrong reference is refused, with what is wrong about it."""
    with pytest.raises(InvalidReference, match=why):
        parse(text)


def test_a_digest_is_no_tag() -> None:
    """An image cannot be given a digest."""
    with pytest.raises(InvalidReference, match="follows from its content"):
        parse_tag(f"a@{DIGEST}")
