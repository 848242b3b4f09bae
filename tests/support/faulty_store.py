"""An S3 server of our own that fails: moto on the loopback, behind a proxy that spoils a seeded share of the requests.

Which requests are spoilt follows from the seed, the method,
the key and how often that key was asked for: not from the order in which threads and processes come.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

KINDS = ("slow_down", "reset", "lost_answer", "truncated", "slow_body")
"""503 SlowDown; the connection reset before the request is done, or after it was; fewer bytes than Content-Length, then
the end; the body in pieces with pauses."""
MOST_FAULTS_IN_A_ROW = 2
SLOW_PIECES = 5
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}

UNSET = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN", "HTTP_PROXY", "HTTPS_PROXY")


@dataclass
class FaultyStore:
    """What the proxy does, and what it has done.

    `share` is the chance of a fault for each request that has had fewer than two in a row. What is in `refused` (parts
    of a path) is answered by 403.
    """

    upstream: tuple[str, int]
    seed: int = 0
    share: float = 0.0
    pause_seconds: float = 0.01
    refused: tuple[str, ...] = ()
    done: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by method and path, `GET /bucket/key`."""
    endpoint: str = ""
    _faults: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What makes AWS clients speak to it, with made-up keys and nothing of the user's set-up."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "made-up",
            "AWS_SECRET_ACCESS_KEY": "made-up",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "NO_PROXY": "127.0.0.1",
        }

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this process, and what it starts, before the proxy."""
        for name in UNSET:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def create_bucket(self, name: str) -> str:
        """Make a bucket behind the proxy's back; its URI."""
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return f"s3://{name}"

    def forget(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.done.clear()
            self.asked.clear()
            self._faults.clear()

    def next_fault(self, method: str, target: str) -> str | None:
        """What is to happen to this request; None: nothing."""
        parts = urlsplit(target)
        key = f"{method} {unquote(parts.path)}"
        prefix = parse_qs(parts.query).get("prefix", [""])[0]
        with self._lock:
            self.asked[key] += 1
            count = self.asked[f"{key}?{prefix}"] = self.asked[f"{key}?{prefix}"] + 1
            if any(part in parts.path for part in self.refused):
                return "refused"
            chance = random.Random(f"{self.seed} {key}?{prefix} {count}")
            in_a_row = self._faults.get(f"{key}?{prefix}", 0)
            spoil = chance.random() < self.share and in_a_row < MOST_FAULTS_IN_A_ROW
            kind = chance.choice(KINDS) if spoil else None
            self._faults[f"{key}?{prefix}"] = in_a_row + 1 if kind not in (None, "slow_body") else 0
            return kind

    def count(self, kind: str) -> None:
        """Note that a fault happened."""
        with self._lock:
            self.done[kind] += 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait for an acknowledgement
    store: FaultyStore

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at the counts."""

    def _handle(self) -> None:
        store = self.store
        fault = store.next_fault(self.command, self.path)
        body = self._body()
        if fault in ("slow_down", "refused"):
            code, status = ("SlowDown", 503) if fault == "slow_down" else ("AccessDenied", 403)
            store.count(fault)
            text = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
            )
            self._answer(status, [("Content-Type", "application/xml")], text.encode())
            return
        if fault == "reset":
            store.count(fault)
            self._reset()
            return
        status, headers, content = self._ask(body)
        if fault == "lost_answer":
            store.count(fault)
            self._reset()
        elif fault == "truncated" and len(content) > 1 and self.command != "HEAD":
            store.count(fault)
            self._answer(status, headers, content, sent=len(content) // 2)
            self.close_connection = True
        elif fault == "slow_body" and len(content) > 1 and self.command != "HEAD":
            store.count(fault)
            self._answer(status, headers, content, pieces=SLOW_PIECES)
        else:
            self._answer(status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.store.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP - {"date"}}
        headers |= {"Content-Length": str(len(body))} if body or self.command in ("PUT", "POST") else {}
        try:
            connection.request(self.command, self.path, body=body or None, headers=headers)
            response = connection.getresponse()
            content = response.read()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
            if self.command == "HEAD":
                kept.append(("Content-Length", response.getheader("Content-Length") or "0"))
            return response.status, kept, content
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, sent: int | None = None, pieces: int = 1
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        head = self.command == "HEAD"
        if not head:
            self.send_header("Content-Length", str(len(content)))
        elif not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", "0")
        self.end_headers()
        if head:
            return
        whole = content[:sent]
        step = -(-len(whole) // pieces) or 1
        for begin in range(0, len(whole), step):
            if begin:
                time.sleep(self.store.pause_seconds)
            self.wfile.write(whole[begin : begin + step])
            self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self.close_connection = True
        self.rfile.close()
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that goes away is no news here."""

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """After a reset the socket is closed already."""
        try:
            super().shutdown_request(request)
        except OSError:
            request.close()


@contextmanager
def started(seed: int = 0, share: float = 0.0) -> Iterator[FaultyStore]:
    """Moto with its proxy, both on the loopback, until the block ends."""
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    assert host == "127.0.0.1"
    store = FaultyStore((host, port), seed=seed, share=share)
    proxy = _Server((host, 0), type("Handler", (_Handler,), {"store": store}))
    store.endpoint = f"http://{host}:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, daemon=True, name="faulty-store").start()
    try:
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()
