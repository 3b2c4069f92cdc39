"""A small web app: a friendly line, and what the router sends along."""

import os

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/")
def hello() -> Response:
    release = os.environ.get("SHIPWAY_RELEASE", "no release")
    instance = os.environ.get("DYNO", "this machine")
    return Response(f"Hello from {release} on {instance}!\n", mimetype="text/plain")


@app.get("/headers")
def headers() -> Response:
    return jsonify(dict(request.headers))
