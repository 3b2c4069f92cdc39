"""The apps that the end-to-end tests push: small, but real Flask under real gunicorn."""

REQUIREMENTS = "flask==3.1.3\ngunicorn==27.0.1\n"

APP = """
import os, sys, time
from flask import Flask, jsonify, request

app = Flask(__name__)
VERSION = "{version}"

@app.get("/")
def index():
    return f"{{VERSION}} {{os.environ['DYNO']}} {{os.environ['SHIPWAY_RELEASE']}}\\n"

@app.get("/headers")
def headers():
    return jsonify(dict(request.headers))

@app.get("/slow")
def slow():
    time.sleep(float(request.args.get("s", "1")))
    return "slow\\n"

@app.get("/log")
def log():
    print(request.args["line"], flush=True)
    return "ok\\n"

@app.get("/crash")
def crash():
    os.kill(os.getppid(), 15)  # the first process of a container does not die of its own SIGKILL
    return "gone\\n"
"""

PROCFILE = "web: gunicorn --bind 0.0.0.0:$PORT --threads 4 --graceful-timeout 25 app:app\n"


def flask_app(version: str, **extra: str) -> dict[str, str]:
    """The files of a Flask app whose answer begins with `version`."""
    return {
        "app.py": APP.format(version=version),
        "requirements.txt": REQUIREMENTS,
        "Procfile": PROCFILE,
        **extra,
    }
