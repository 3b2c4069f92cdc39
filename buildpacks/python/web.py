"""How a Python app is started where no Procfile says it: only where its own files leave no doubt."""

import os
import re

FOLDERS = (".", "src", "app")
NAMES = ("app", "main", "wsgi", "asgi", "application", "server", "api")
BIND = "--bind 0.0.0.0:$PORT"
LISTEN = "--host 0.0.0.0 --port $PORT"
_LARGEST = 256 * 1024  # bytes of a file that is looked at
_OBJECT = re.compile(
    r"^(\w+)\s*(?::\s*[\w.]+\s*)?=\s*(?:\w+\.)?(Flask|FastAPI|Starlette)\(", re.MULTILINE
)
_FACTORY = re.compile(r"^def (create_app|make_app)\(\s*\)", re.MULTILINE)


def command(requirements: str) -> str:
    """The command, empty where it is not evident. `requirements` is what the app asks for, as text."""
    gunicorn, uvicorn = (bool(re.search(rf"\b{name}\b", requirements)) for name in SERVERS)
    if os.path.isfile("manage.py"):
        return _django(gunicorn, uvicorn)
    for folder in FOLDERS:
        for name in NAMES:
            found = _object(os.path.join(folder, f"{name}.py"))
            if found is None:
                continue
            target, kind = found
            path = "" if folder != "src" else f" {'--chdir' if kind == 'wsgi' else '--app-dir'} src"
            module = name if folder in (".", "src") else f"{folder}.{name}"
            if kind == "wsgi" and gunicorn:
                return f"gunicorn {BIND}{path} '{module}:{target}'"
            if kind == "asgi" and uvicorn:
                return f"uvicorn {LISTEN}{path} {module}:{target}"
    return ""


SERVERS = ("gunicorn", "uvicorn")


def _django(gunicorn: bool, uvicorn: bool) -> str:
    for name in sorted(os.listdir(".")):
        if gunicorn and os.path.isfile(f"{name}/wsgi.py"):
            return f"gunicorn {BIND} {name}.wsgi"
        if uvicorn and os.path.isfile(f"{name}/asgi.py"):
            return f"uvicorn {LISTEN} {name}.asgi:application"
    return ""


def _object(path: str) -> tuple[str, str] | None:
    """The name of the application in a file, and whether it is `wsgi` or `asgi`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST)
    except OSError:
        return None
    found = _OBJECT.search(text)
    if found:
        return found.group(1), "wsgi" if found.group(2) == "Flask" else "asgi"
    factory = _FACTORY.search(text)
    if factory and "flask" in text.lower():
        return f"{factory.group(1)}()", "wsgi"
    return None
