"""A web server for the Python of a guest, which has nothing but its standard library. It is sent there as it is."""

from __future__ import annotations

import base64
import hashlib
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    """Answers by the method ``on_`` and the first part of the path, or by ``on_other``."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if self.parse_request():
            part = self.path.split("?")[0].strip("/").split("/")[0]
            getattr(self, "on_" + part, self.on_other)()
            self.wfile.flush()

    def on_other(self) -> None:
        self.answer(404, b"")

    def body(self) -> bytes:
        """Read the body of the request."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def accept_socket(self, subprotocol: str | None = None) -> None:
        """Take a WebSocket."""
        key = self.headers["sec-websocket-key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode())
        if subprotocol:
            self.send_header("Sec-WebSocket-Protocol", subprotocol)
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def frame(kind: int, data: bytes, final: bool = True) -> bytes:
    """Return a frame of a WebSocket: 1 is text, 2 bytes, 8 a close, 9 a ping."""
    size = len(data)
    first = bytes([kind | (0x80 if final else 0)])
    if size < 126:
        return first + bytes([size]) + data
    if size < 65536:
        return first + b"\x7e" + struct.pack("!H", size) + data
    return first + b"\x7f" + struct.pack("!Q", size) + data


def read_frame(stream: BinaryIO) -> tuple[int, bytes]:
    """Read a whole frame of a client; answers to pings are left out. The end of the stream reads as a close."""
    while True:
        head = stream.read(2)
        if len(head) < 2:
            return 8, b""
        kind, size = head
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", stream.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", stream.read(8))
        mask = stream.read(4)
        data = stream.read(size)
        data = (int.from_bytes(data, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")).to_bytes(
            size, "big"
        )
        if kind & 0xF != 10:
            return kind & 0xF, data


def serve(handler: type[Handler]) -> None:
    """Serve on the port that the command line names; say so when it listens."""
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler)
    print("listening", flush=True)
    server.serve_forever()
