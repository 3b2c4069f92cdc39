"""What a build takes from an app.json."""

import pytest

from shipway.buildpacks.appjson import appjson
from shipway.buildpacks.kit.errors import CannotBuild


def test_env_and_scripts() -> None:
    """Values, secrets to be made, what is missing, and the script are told apart."""
    found = appjson.parse(
        """{"env": {"A": "1", "B": {"value": "2", "description": "x"}, "C": {"generator": "secret"},
        "D": {"required": false}, "E": {"description": "y"}},
        "scripts": {"postdeploy": "no", "dokku": {"predeploy": " make "}}}"""
    )
    assert found == appjson.AppJson({"A": "1", "B": "2"}, ("C",), ("E",), "make")
    assert appjson.parse("{}") == appjson.AppJson({}, (), (), "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "app.json line 2, column 1: a name in double quotes is missing"),
        ("[]", "app.json line 1: has a list at its top, expected an object in braces"),
        ('{\n"env": []}', "app.json line 2: env is a list, expected an object"),
        ('{"env": {\n"A": 1}}', "app.json line 2: env.A is a number, expected a string, or an obj"),
        ('{"env": {"A": {"value": 1}}}', "env.A.value is a number, expected a string"),
        ('{"env": {"A": {"generator": "x"}}}', "env.A.generator is 'x', expected 'secret'"),
        ('{"env": {\n\n"A B": "1"}}', "app.json line 3: 'A B' is no name of a variable"),
        ('{"scripts": {"predeploy": 1}}', "scripts.predeploy is a number, expected a string"),
    ],
)
def test_malformed(text: str, message: str) -> None:
    """What is wrong is told with its line and what was expected there."""
    with pytest.raises(CannotBuild) as error:
        appjson.parse(text)
    assert message in error.value.lines[0]
