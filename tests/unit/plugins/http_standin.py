# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in of fractal-server's API over real HTTP. Each test says what it answers."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn:
    """Answers what :meth:`answer` says, and keeps what it was asked as (method, path, Authorization, body)."""

    def __init__(self):
        self.calls = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                outer.calls.append((self.command, self.path, self.headers.get("Authorization"), body))
                status, told = outer.answer(self.command, self.path, body)
                if told == "drip":
                    self.drip()
                    return
                text = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = respond  # noqa: N815 - http.server's names

            def drip(self):
                """A byte now and then, without end: each comes in time."""
                self.send_response(200)
                self.end_headers()
                for _count in range(200):
                    try:
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    except OSError:
                        break
                    time.sleep(0.05)

            def log_message(self, *_words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, method, path, body):
        raise NotImplementedError

    def close(self):
        self.http.shutdown()
        self.http.server_close()
