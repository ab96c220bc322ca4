"""An S3 server on this machine, as a process of its own, and a proxy before it that misbehaves on demand."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What no file, log or message may show. The server takes any.
KEY, SECRET = "AKIAOVERSEGTESTKEYID", "s3cr3t-that-nobody-may-see"
BUCKET = "cells"

_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>not today</Message>'
    b"<Resource>/</Resource><RequestId>1</RequestId></Error>"
)
_CODES = {"500": b"InternalError", "503": b"ServiceUnavailable"}


@contextmanager
def server() -> Iterator[int]:
    """The port of an S3 server with an empty bucket."""
    port = _free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                _ask(port, "PUT", f"/{BUCKET}")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """Where credentials and the server's address are looked for, and nothing else of the machine's own."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


class Proxy:
    """Passes requests on to the server, or does as `fault` says.

    Attributes
    ----------
    port : int
    fault : callable
        ``fault(method, path)`` gives ``500``, ``503``, ``slow``, ``cut``, or "" to pass the request on.
    struck : int
        Requests that were not passed on as they should have been.
    """

    def __init__(self, upstream: int) -> None:
        self.fault: Callable[[str, str], str] = _none
        self.struck = 0
        self._upstream = upstream
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._closing = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._answer(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                """Not on the terminal."""

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault(request.command, request.path)
        self.struck += bool(fault)
        if fault == "slow":
            self._closing.wait(3600)
            request.close_connection = True
            return
        if fault in _CODES:
            data = b"" if request.command == "HEAD" else _ERROR % _CODES[fault]
            _send(request, int(fault), {"Content-Type": "application/xml", "Content-Length": len(data)}, data)
            return
        if fault == "cut" and body:  # the server has got it, and nobody hears of it
            _ask(self._upstream, request.command, request.path, body, dict(request.headers))
            request.close_connection = True
            return
        status, headers, data = _ask(
            self._upstream, request.command, request.path, body, dict(request.headers)
        )
        if request.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        if fault == "cut":
            request.close_connection = True
            data = data[: len(data) // 2]
        _send(request, status, headers, data)


def first(times: int, fault: str, where: Callable[[str, str], bool]) -> Callable[[str, str], str]:
    """A fault for so many of the requests that `where` picks."""
    left, guard = [times], threading.Lock()

    def choose(method: str, path: str) -> str:
        with guard:
            if left[0] > 0 and where(method, path):
                left[0] -= 1
                return fault
            return ""

    return choose


def voxels_read(method: str, path: str) -> bool:
    """Requests for chunks."""
    return method == "GET" and "/c/" in path


def voxels_written(method: str, path: str) -> bool:
    """Requests that store chunks."""
    return method == "PUT" and "/c/" in path


def _none(_: str, __: str) -> str:
    return ""


def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, Any], data: bytes) -> None:
    request.send_response(status)
    for name, value in headers.items():
        if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
            request.send_header(name, str(value))
    request.end_headers()
    try:
        request.wfile.write(data)
    except OSError:
        request.close_connection = True


def _ask(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    sent = {k: v for k, v in (headers or {}).items() if k.lower() not in ("connection", "expect")}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
