"""The peers of the HTTP benchmark: the same query over the same database, without what a daemon adds.

``python peers.py hypercorn|fastapi DATABASE PORT`` serves ``/status`` and ``/runs`` on loopback.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

import msgspec
import sqlalchemy as sa

QUERY = sa.text(
    "SELECT id, team_id, name, device_id, state, metadata, created_at, created_by "
    "FROM runs ORDER BY number DESC LIMIT 50"
)
STATUS = {"status": "ok"}


def reader(path: str) -> Any:
    """Return a function that runs the query on a connection of its own, read-only."""
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False),
        poolclass=sa.pool.StaticPool,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
    )
    connection = engine.connect()

    def read() -> list[dict[str, Any]]:
        return [
            {
                "id": row[0],
                "orgId": row[1],
                "pipeline": row[2],
                "deviceId": row[3],
                "status": row[4],
                "metadata": msgspec.json.decode(row[5]) if row[5] else None,
                "createdAt": row[6],
                "createdBy": row[7],
            }
            for row in connection.execute(QUERY)
        ]

    return read


def bare_hypercorn(path: str, port: int) -> None:
    """A bare ASGI application on hypercorn's own trio worker."""
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve

    read = reader(path)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = msgspec.json.encode({"runs": read()} if scope["path"] == "/runs" else STATUS)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "ERROR"
    trio.run(serve, app, config)


def fastapi(path: str, port: int) -> None:
    """FastAPI as its documentation shows it, on uvicorn."""
    import uvicorn
    from fastapi import FastAPI

    read = reader(path)
    app = FastAPI()

    @app.get("/status")
    async def status() -> dict[str, str]:
        return STATUS

    @app.get("/runs")
    async def runs() -> dict[str, Any]:
        return {"runs": read()}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    {"hypercorn": bare_hypercorn, "fastapi": fastapi}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
