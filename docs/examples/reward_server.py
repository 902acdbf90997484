"""A reward behind HTTP, with nothing but Python: POST {"prompts": [...], "responses": [...]} gives {"scores": [...]}.

python docs/examples/reward_server.py 8900
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def score(prompt: str, response: str) -> float:
    """One for each word of the response that the prompt does not have."""
    return float(len(set(response.lower().split()) - set(prompt.lower().split())))


class Scores(BaseHTTPRequestHandler):
    """Answers each request with one score for each response."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Scores the responses of one request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = [score(*pair) for pair in zip(asked["prompts"], asked["responses"], strict=True)]
        body = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Scores) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
