"""composer.json files: extensions, document roots, and what is wrong with one."""

import pytest

from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.php import composerjson


def test_parse() -> None:
    """Extensions become Debian's packages, once each; those that PHP has itself become none."""
    read = composerjson.parse(
        '{"require": {"php": "^8.2", "ext-pdo_mysql": "*", "ext-mysqli": "*", "ext-json": "*",'
        ' "ext-dom": "*", "example/x": "1"}, "extra": {"shipway": {"document-root": "www"}}}'
    )
    assert read == composerjson.Composer("^8.2", ("mysql", "xml"), has_packages=True, root="www")
    assert composerjson.parse('{"require": []}') == composerjson.Composer("", (), False, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "line 1: has a list at its top"),
        ('{\n"require": "x"}', "line 2: require is a string, expected an object"),
        ('{"require": {"ext-../x": "*"}}', r"ext-\.\./x is no extension"),
        ('{"extra": {"shipway": {\n"document-root": 1}}}', "line 2: document-root is a number"),
    ],
)
def test_wrong(text: str, reason: str) -> None:
    """What is wrong is named with its line."""
    with pytest.raises(CannotBuild, match=reason):
        composerjson.parse(text)
