"""Apps of Deno, and of two languages at once, on real parts."""

import json

import pytest

from buildlab import Builder, answer


def test_deno(builder: Builder) -> None:
    """A Deno app is built with its modules, starts without a network, and is rebuilt without fetching."""
    files: dict[str, str | bytes] = {
        "deno.json": '{ // tasks\n"imports": {"odd": "npm:is-odd@3.0.1"},\n'
        '"tasks": {"start": "deno run -A main.ts", "build": "echo built > made"},}',
        "main.ts": "import odd from 'odd';\n"
        "Deno.serve({ port: Number(Deno.env.get('PORT')), hostname: '0.0.0.0' },"
        " () => new Response(`${odd(3)} ${Deno.readTextFileSync('made')}`));\n",
    }
    first = builder.build(files, cache=builder.folder / "deno")
    assert first.processes["web"] == "deno task start"
    assert answer(builder, first) == "true built\n"
    files["deno.lock"] = builder.run(first, "cat deno.lock")
    second = builder.build(files, cache=builder.folder / "deno", previous=first.image)
    third = builder.build(files, cache=builder.folder / "deno", previous=second.image)
    assert "-----> Using the Deno of the previous build" in builder.lines
    assert any("deno.lock is unchanged" in line for line in builder.lines)
    assert builder.layer(third, "deno") == builder.layer(first, "deno")
    assert builder.layer(third, "modules") == builder.layer(second, "modules")
    left = builder.run(third, "ls $DENO_DIR").split()
    assert sorted(left) == ["env.launch", "npm"]  # and no cache, which differs each time


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"tasks": // x\n{,}', "Deno.json line 2, column 4"),
        ("{}", "This Deno app has no Procfile"),
    ],
)
def test_bad_deno(builder: Builder, text: str, reason: str) -> None:
    """What is wrong with a deno.json is told with its line."""
    assert builder.failure({"deno.json": text}).casefold().startswith(reason.casefold())


def test_assets_of_a_python_app(builder: Builder) -> None:
    """Node.js builds the assets first, and only Python and what it made are in the image."""
    files: dict[str, str | bytes] = {
        "package.json": json.dumps(
            {
                "packageManager": "bun@1.3.0",
                "devDependencies": {"is-odd": "3.0.1"},
                "scripts": {"build": "mkdir -p static && ls node_modules > static/made"},
            }
        ),
        "requirements.txt": "gunicorn==23.0.0\n",
        "app.py": "def app(_, start):\n    start('200 OK', [])\n"
        "    return [open('static/made', 'rb').read()]\n",
        "Procfile": "web: gunicorn --bind 0.0.0.0:$PORT app:app",
    }
    cache = builder.folder / "several"
    first = builder.build(files, cache=cache)
    assert "-----> Node.js, Python app detected" in builder.lines
    assert answer(builder, first) == "is-number\nis-odd\n"
    assert builder.run(first, "ls /layers; ls").split() == [
        *("config", "shipway_python"),
        *("Procfile", "app.py", "bun.lock", "package.json", "requirements.txt", "static"),
    ]
    second = builder.build(files | {"x": ""}, cache=cache, previous=first.image)
    assert not any("Installing" in line or "Fetching" in line for line in builder.lines)
    assert builder.layer(second, "venv") == builder.layer(first, "venv")


def test_tools_of_a_python_app(builder: Builder) -> None:
    """A package.json without a build script beside a Python app is nobody's business."""
    files: dict[str, str | bytes] = {
        "package.json": '{"devDependencies": {"prettier": "3"}}',
        "requirements.txt": "",
        "Procfile": "web: python -m http.server $PORT",
    }
    builder.build(files)
    assert "-----> Python app detected" in builder.lines


def test_app_json(builder: Builder) -> None:
    """Defaults are in the environment unless set, the predeploy script's work is in the image."""
    text = (
        '{"env": {"COLOUR": "blue", "KEY": {"generator": "secret"}},'
        ' "scripts": {"dokku": {"predeploy": "echo made > made"}}}'
    )
    files: dict[str, str | bytes] = {
        "app.json": text,
        "requirements.txt": "",
        "Procfile": "web: x",
    }
    result = builder.build(files)
    assert builder.run(result, "echo $COLOUR $KEY; cat made").split() == ["blue", "made"]
    assert builder.image(result).config.labels["app-json.generated-env"] == "KEY"
    assert builder.failure(files | {"app.json": "{"}).casefold().startswith("app.json line 1")
