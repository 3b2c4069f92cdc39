"""Python apps as their package managers describe them: built on real parts, started and asked."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import uv

from buildlab import Builder, answer

WHEEL = "sha256:c6242fc49e35958c8b15141343aa660db5fc54d4f13a1db01a3f5891b98700ef"
PROCFILE = {"Procfile": "web: python app.py"}
PYPROJECT = """[project]
name = "demo"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["itsdangerous==2.2.0"]
"""
UV = PYPROJECT + '[dependency-groups]\ndev = ["six==1.17.0"]\n'
POETRY = PYPROJECT + (
    "[tool.poetry]\npackage-mode = false\n[tool.poetry.group.dev.dependencies]\nsix = '1.17.0'\n"
)
POETRY_LOCK = f"""
[[package]]
name = "itsdangerous"
version = "2.2.0"
description = ""
optional = false
python-versions = ">=3.8"
groups = ["main"]
files = [{{file = "itsdangerous-2.2.0-py3-none-any.whl", hash = "{WHEEL}"}}]

[metadata]
lock-version = "2.1"
python-versions = ">=3.11"
content-hash = "54d8835cad8d52e9b29215df09d9281ef0b2a8b46376a4f522c9f06308a8a8a2"
"""
PIPFILE = "[packages]\nitsdangerous = '==2.2.0'\n[dev-packages]\nsix = '*'\n"
PIPFILE_LOCK = json.dumps(
    {
        "_meta": {"requires": {"python_version": "3.13"}, "sources": []},
        "default": {"itsdangerous": {"hashes": [WHEEL], "version": "==2.2.0"}},
        "develop": {},
    }
)
DJANGO: dict[str, str | bytes] = {
    "requirements.txt": "django==5.2.8\ngunicorn==23.0.0\n",
    "manage.py": "import os\nimport sys\n"
    "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"
    "from django.core.management import execute_from_command_line\n"
    "execute_from_command_line(sys.argv)\n",
    "site1/__init__.py": "",
    "site1/settings.py": "SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'site1.urls'\n"
    "INSTALLED_APPS = ['django.contrib.staticfiles']\nSTATIC_URL = '/static/'\n"
    "STATIC_ROOT = 'collected'\nSTATICFILES_DIRS = ['assets']\n",
    "site1/urls.py": "from django.http import HttpResponse\nfrom django.urls import path\n"
    "urlpatterns = [path('', lambda _: HttpResponse(open('collected/a.css').read()))]\n",
    "site1/wsgi.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"
    "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "assets/a.css": "a {}\n",
}


@pytest.fixture(scope="module")
def uv_lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Locked here, for it holds the addresses of the index that this machine uses."""
    folder: Path = tmp_path_factory.mktemp("uv")
    (folder / "pyproject.toml").write_text(UV)
    subprocess.run(
        [uv.find_uv_bin(), "lock", "-q"],
        cwd=folder,
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
        check=True,
        timeout=60,
    )
    return (folder / "uv.lock").read_text()


@pytest.mark.parametrize("kind", ["uv", "poetry", "pipenv", "pipfile", "pyproject"])
def test_package_managers(builder: Builder, uv_lock: str, kind: str) -> None:
    """Each manager's files are honoured without what is for development; unchanged, nothing runs."""
    files: dict[str, str | bytes] = {
        "uv": {"pyproject.toml": UV, "uv.lock": uv_lock},
        "poetry": {"pyproject.toml": POETRY, "poetry.lock": POETRY_LOCK},
        "pipenv": {"Pipfile": PIPFILE, "Pipfile.lock": PIPFILE_LOCK},
        "pipfile": {"Pipfile": PIPFILE},
        "pyproject": {"pyproject.toml": PYPROJECT},
    }[kind]
    cache = builder.folder / "cache"
    first = builder.build({**files, **PROCFILE}, cache=cache)
    found = builder.run(first, "ls /layers/shipway_python/venv/lib/python3*/site-packages")
    assert "itsdangerous-2.2.0.dist-info" in found
    assert "six" not in found
    second = builder.build({**files, **PROCFILE, "more": ""}, previous=first.image, cache=cache)
    assert builder.layer(second, "venv") == builder.layer(first, "venv")
    assert any("of the previous build" in line for line in builder.lines)


@pytest.mark.parametrize("name", ["uv.lock", "poetry.lock"])
def test_stale_lock(builder: Builder, uv_lock: str, name: str) -> None:
    """A lock file that is older than the project says so, and how to make it again."""
    files: dict[str, str | bytes] = {
        "uv.lock": {"pyproject.toml": UV.replace("2.2.0", "2.1.2"), "uv.lock": uv_lock},
        "poetry.lock": {"pyproject.toml": POETRY.replace("2.2", "2.1"), "poetry.lock": POETRY_LOCK},
    }[name]
    reason = builder.failure({**files, **PROCFILE}, cache=builder.folder / "cache")
    assert reason == f"{name} does not fit pyproject.toml"
    assert any(f"commit {name} and push again" in line for line in builder.lines)


def test_django(builder: Builder) -> None:
    """A Django app needs no Procfile, and has its static files collected, unless told not to."""
    cache = builder.folder / "cache"
    first = builder.build(DJANGO, cache=cache)
    assert first.processes["web"] == "gunicorn --bind 0.0.0.0:$PORT site1.wsgi"
    assert answer(builder, first) == "a {}\n"
    left_out = builder.build(
        DJANGO, previous=first.image, cache=cache, env={"DISABLE_COLLECTSTATIC": "1"}
    )
    assert "collected" not in builder.run(left_out, "ls")
    broken = DJANGO | {"site1/settings.py": "import os\nSECRET_KEY = os.environ['KEY']\n"}
    reason = builder.failure(broken, previous=first.image, cache=cache)
    assert reason == "Collecting Django's static files failed; see above"
    assert any("DISABLE_COLLECTSTATIC=1" in line for line in builder.lines)


def test_other_python(builder: Builder) -> None:
    """Another Python that cannot be fetched names the host, and the setting that names a mirror."""
    files: dict[str, str | bytes] = {"requirements.txt": "", ".python-version": "3.12", **PROCFILE}
    env = {"UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:9/pythons"}
    reason = builder.failure(files, env=env)
    assert reason.startswith(".python-version asks for Python 3.12, but the Debian 13 stack has")
    assert " !     127.0.0.1:9 could not be reached from the build." in builder.lines
    assert any("UV_PYTHON_INSTALL_MIRROR" in line for line in builder.lines)
