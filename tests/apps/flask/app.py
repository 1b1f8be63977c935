import os

from flask import Flask, request

VERSION = "one"
app = Flask(__name__)


@app.route("/<path:rest>", methods=["GET", "POST"])
def answer(rest):
    body = request.get_data(as_text=True)
    words = ("flask", VERSION, os.getppid(), os.getuid(), request.method, rest, request.args.get("q", ""), f"[{body}]")
    return " ".join(map(str, words))
