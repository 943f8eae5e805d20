"""A chat model behind an OpenAI-compatible endpoint on this machine, which does what a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeJudge:
    """`script` has, for one request after another, a status with headers and body; what follows is a plain judgment."""

    def __init__(self, key="right"):
        self.key = key
        self.script = []
        self.requests = []
        self.judgment = "It is short. Rating: [[7]]"
        self.on_request = lambda number: None
        self._lock = threading.Lock()

    def answer(self, path, headers, body):
        with self._lock:
            self.requests.append(body)
            scripted = self.script.pop(0) if self.script else None
            number = len(self.requests)
        self.on_request(number)
        if path != "/v1/chat/completions":
            return 404, {}, {"error": {"message": f"no such path: {path}"}}
        if headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {}, {"error": {"message": "Incorrect API key provided"}}
        if scripted is not None:
            return scripted
        text = self.judgment(body) if callable(self.judgment) else self.judgment
        return 200, {}, completion(text)


def completion(text, prompt_tokens=100, completion_tokens=10):
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


@contextmanager
def serving(judge):
    """The base URL of a server that runs in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = judge.answer(self.path, self.headers, body)
            if status is None:  # the line goes dead
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
