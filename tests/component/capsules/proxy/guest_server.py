"""A web server inside a capsule: it tells what it was asked, misbehaves where told to, and prints when it listens.

It runs beside ``guest_web.py``: ``guest_server.py PORT``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import struct

from guest_web import Handler, frame, read_frame, serve

said: queue.Queue[bytes | None] = queue.Queue()


class Site(Handler):
    """Answers by the first part of the path."""

    def begin_chunks(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    # what it does

    def on_other(self) -> None:
        """Tell what was asked."""
        data = self.body()
        told = {
            "method": self.command,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self.answer(200, json.dumps(told).encode(), ("Content-Type", "application/json"), ("X-Own", "yes"))

    def on_large(self) -> None:
        """Send as many bytes as the path says, without saying how many."""
        self.begin_chunks("application/octet-stream")
        left = int(self.path.rsplit("/", 1)[1])
        while left:
            piece = bytes(min(left, 50_000))
            self.chunk(piece)
            left -= len(piece)
        self.chunk(b"")

    def on_events(self) -> None:
        """Send what others say, as it is said."""
        self.begin_chunks("text/event-stream")
        while (piece := said.get()) is not None:
            self.chunk(b"data: " + piece + b"\n\n")
        self.chunk(b"")

    def on_say(self) -> None:
        said.put(self.body() or None)
        self.answer(204, b"")

    def on_upper(self) -> None:
        """Answer each chunk of the body before the next one is there."""
        self.begin_chunks("text/plain")
        while size := int(self.rfile.readline(), 16):
            self.chunk(self.rfile.read(size).upper())
            self.rfile.readline()
        self.chunk(b"")

    def on_redirect(self) -> None:
        self.answer(302, b"", ("Location", base64.urlsafe_b64decode(self.path.rsplit("/", 1)[1]).decode()))

    def on_cookies(self) -> None:
        self.answer(
            200,
            b"",
            ("Set-Cookie", "mine=1; Path=/; Domain=localhost; HttpOnly"),
            ("Set-Cookie", "wrenn_sid=stolen; Domain=localhost"),
            ("Connection", "x-hop"),
            ("X-Hop", "no"),
        )

    def on_refuse(self) -> None:
        """Refuse before anything of the body was read."""
        self.answer(413, b"too much", ("Connection", "close"))
        self.close_connection = True

    def on_nothing(self) -> None:
        self.close_connection = True

    def on_garbage(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        self.close_connection = True

    def on_short(self) -> None:
        """Break off in the middle of the answer."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    # WebSockets

    def on_socket(self) -> None:
        """Send messages back; ``close CODE`` closes, ``drop`` breaks the connection."""
        if self.path.endswith("/refused"):
            self.answer(401, b"not you")
            return
        self.accept_socket("chat" if "chat" in self.headers.get("sec-websocket-protocol", "") else None)
        self.wfile.write(frame(1, json.dumps(dict(self.headers.items())).lower().encode()))
        while True:
            kind, data = read_frame(self.rfile)
            if kind == 1 and data.startswith(b"close "):
                self.wfile.write(frame(8, struct.pack("!H", int(data[6:])) + b"as you wish"))
            elif kind == 1 and data == b"drop":
                return
            elif kind == 1 and data.startswith(b"send "):
                self.wfile.write(frame(2, bytes(int(data[5:]))))
            elif kind == 8:
                said.put(b"closed by %d" % struct.unpack("!H", data[:2]))
                return
            else:
                # in two pieces, with a ping between them
                half = len(data) // 2
                self.wfile.write(frame(kind, data[:half], final=False) + frame(9, b"?") + frame(0, data[half:]))


if __name__ == "__main__":
    serve(Site)
