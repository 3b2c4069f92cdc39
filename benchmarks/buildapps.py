"""The four apps that builds are measured with: their files, a change of code, one more dependency, a Dockerfile."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.docker import ROOTFS

# The images that Dockerfiles begin with: as the field's official ones, on the stack's files.
PYTHON, NODE, NGINX = "bench-python", "bench-node", "bench-nginx"
Files = Mapping[str, str]

# A line of these stands for a step that installs; `dockerbuilds.py` says what that is.
PIP, NPM = "@pip", "@npm"
FLASK_DOCKERFILE = f"""\
FROM {PYTHON} AS build
RUN python3 -m venv --without-pip /venv
WORKDIR /app
COPY requirements.txt .
{PIP} --python /venv/bin/python install -q -r requirements.txt

FROM {ROOTFS}
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PORT=5000
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
USER 1000
CMD exec gunicorn --bind 0.0.0.0:$PORT --threads 4 app:app
"""
DJANGO_DOCKERFILE = FLASK_DOCKERFILE.replace(
    "COPY . .\n", "COPY . .\nRUN python3 manage.py collectstatic --noinput\n"
).replace("app:app", "site1.wsgi")
EXPRESS_DOCKERFILE = f"""\
FROM {NODE}
ENV NODE_ENV=production PORT=5000
WORKDIR /app
COPY package.json package-lock.json ./
{NPM} ci --omit=dev --no-audit --no-fund
COPY . .
USER 1000
CMD ["node", "server.js"]
"""
STATIC_DOCKERFILE = f"""\
FROM {NGINX}
COPY . /var/www/html
CMD ["nginx", "-g", "daemon off;"]
"""


@dataclass(frozen=True)
class App:
    """One app. `code` gives the files that a change of code changes, from a word that is new each time.

    `lists` are the files that name the dependencies: the first as the app begins, each of the
    others with one dependency more.
    """

    name: str
    dockerfile: str
    files: Files = field(repr=False)
    code: Callable[[str], Files]
    lists: tuple[Files, ...] = field(default=(), repr=False)

    @property
    def tree(self) -> Files:
        """All files, as the app begins."""
        return {**self.files, **self.code("first"), **(self.lists[0] if self.lists else {})}


def flask() -> App:
    """Flask and gunicorn."""

    def code(word: str) -> Files:
        return {
            "app.py": "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get('/')\n"
            f"def index():\n    return '{word}'\n"
        }

    more = ("requests==2.34.2", "rich==15.0.0", "httpx==0.28.1", "pyyaml==6.0.3", "peewee>=3")
    files = {"Procfile": "web: gunicorn --bind 0.0.0.0:$PORT --threads 4 app:app\n"}
    lists = _requirements(("flask==3.1.3", "gunicorn"), more)
    return App("flask", FLASK_DOCKERFILE, files, code, lists)


def django() -> App:
    """Django with compiled wheels and its admin's static files."""
    settings = """\
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "only for a benchmark"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    f"django.contrib.{name}" for name in
    ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
]
ROOT_URLCONF = "site1.urls"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
"""
    environ = 'import os\n\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")\n'
    files = {
        "Procfile": "web: gunicorn --bind 0.0.0.0:$PORT site1.wsgi\n",
        "manage.py": f"{environ}if __name__ == '__main__':\n    import sys\n\n"
        "    from django.core.management import execute_from_command_line\n\n"
        "    execute_from_command_line(sys.argv)\n",
        "site1/__init__.py": "",
        "site1/settings.py": settings,
        "site1/wsgi.py": f"{environ}from django.core.wsgi import get_wsgi_application\n\n"
        "application = get_wsgi_application()\n",
    }

    def code(word: str) -> Files:
        return {
            "site1/urls.py": "from django.http import HttpResponse\nfrom django.urls import path\n\n"
            f"urlpatterns = [path('', lambda request: HttpResponse('{word}'))]\n"
        }

    first = ("django==5.2.*", "gunicorn", "psycopg[binary]==3.*", "pillow", "numpy==2.*")
    more = ("whitenoise==6.*", "requests==2.*", "rich==15.*", "pyyaml==6.*", "markdown==3.*")
    return App("django", DJANGO_DOCKERFILE, files, code, _requirements(first, more))


def _requirements(first: tuple[str, ...], more: tuple[str, ...]) -> tuple[Files, ...]:
    count = range(len(more) + 1)
    return tuple({"requirements.txt": "\n".join([*first, *more[:n], ""])} for n in count)


# About two hundred packages in all, with what they need themselves.
EXPRESS = ("express@5", "socket.io@4", "winston@3", "pg@8", "axios@1", "helmet@8", "cors@2")
EXPRESS += ("morgan@1", "multer@2", "jsonwebtoken@9", "joi@17", "lodash@4", "compression@1")
EXPRESS += ("nodemailer@7", "express-session@1")
EXPRESS_MORE = ("dayjs@1", "nanoid@5", "slugify@1", "zod@3", "mime@4")
LEAST_PACKAGES, MOST_PACKAGES = 180, 230


def express(lists: tuple[Files, ...]) -> App:
    """An Express app; `lists` are its package.json and package-lock.json, which npm makes."""

    def code(word: str) -> Files:
        return {
            "server.js": "const app = require('express')()\n"
            f"app.get('/', (request, answer) => answer.send('{word}'))\n"
            "app.listen(process.env.PORT || 5000)\n"
        }

    return App("express", EXPRESS_DOCKERFILE, {"Procfile": "web: node server.js\n"}, code, lists)


def manifest() -> str:
    """The package.json that npm adds the dependencies to."""
    about = {"name": "bench", "version": "1.0.0", "private": True}
    return json.dumps({**about, "scripts": {"start": "node server.js"}})


def check_packages(lock: str) -> None:
    """Raises RuntimeError if package-lock.json has other than about two hundred packages."""
    count = len(json.loads(lock)["packages"]) - 1
    if not LEAST_PACKAGES <= count <= MOST_PACKAGES:
        raise RuntimeError(f"package-lock.json has {count} packages, expected about 200")


FOLDERS, FILES = 50, 100


def static() -> App:
    """A site of FOLDERS × FILES pages, of half a kilobyte to four."""
    chance = random.Random(1)
    pages = {
        f"d{folder}/p{page}.html": f"<!doctype html><title>{folder}/{page}</title>\n"
        + f"<p>{chance.getrandbits(256):x}</p>\n" * chance.randrange(7, 56)
        for folder in range(FOLDERS)
        for page in range(FILES)
    }

    def code(word: str) -> Files:
        return {"index.html": f"<!doctype html><title>{word}</title>\n"}

    return App("static", STATIC_DOCKERFILE, pages, code)
