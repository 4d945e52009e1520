"""Serves a model over HTTP with the pixels that it was trained on, by the standard library's server.

    $ python examples/serve.py --recipe recipe.toml --port 8080
    $ curl --data-binary @photo.jpg http://127.0.0.1:8080/predict
    {"classes": [0.31, 0.69]}
    $ curl --data-binary @series.dcm 'http://127.0.0.1:8080/predict?frame=4'

Put your own model in the place of `small_model`. Files are decoded in child processes with limits of time and memory,
because requests come from strangers. What cannot be decoded is answered with 422 and the reason, which names no file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch

import dali_pipes as dp

LARGEST = 64 * 2**20
"""Bytes of a request."""

Model = Callable[[torch.Tensor], torch.Tensor]


def small_model(channels: int = 3, classes: int = 2) -> torch.nn.Module:
    """Return a small convolutional network with fixed weights."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(channels, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, classes), torch.nn.Softmax(1)).eval()


def server(recipe: dp.Recipe, model: Model, address: tuple[str, int] = ("127.0.0.1", 0)) -> ThreadingHTTPServer:
    """Return a server; `serve_forever()` runs it, `server_close()` ends its child processes too."""
    serving = dp.Serving(recipe, sandbox=True)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= LARGEST:
                self.answer(413, {"error": f"send a file of 1 to {LARGEST} bytes"})
                return
            frame = parse_qs(urlparse(self.path).query).get("frame", ["0"])[0]
            try:
                image = serving.tensor(self.rfile.read(length), int(frame))
            except (dp.DaliPipesError, ValueError) as error:
                self.answer(422, {"error": str(error)})
                return
            with torch.inference_mode():
                found = model(image[None])[0]
            self.answer(200, {"classes": found.tolist()})

        def answer(self, code: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the address may name a patient."""

    class Server(ThreadingHTTPServer):
        def server_close(self) -> None:
            super().server_close()
            serving.close()

    return Server(address, Handler)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a small model over HTTP.")
    parser.add_argument("--recipe", help="a recipe as TOML or JSON; by default 224 x 224, normalised")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    default = dp.Recipe(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    recipe = dp.Recipe.load(args.recipe) if args.recipe else default
    with server(recipe, small_model(recipe.channels), (args.host, args.port)) as running:
        running.serve_forever()


if __name__ == "__main__":
    main()
