"""Kernels as Jupyter serves them, as far as the SDK's code runner speaks to them. Runs in a guest, beside
``guest_web.py``: ``guest_kernel.py PORT``."""

from __future__ import annotations

import ast
import contextlib
import json
import traceback
import uuid
from typing import Any

from guest_web import Handler, frame, read_frame, serve


class Kernel:
    """Runs cells one after the other in one name space, and tells of each by messages."""

    def __init__(self, name: str) -> None:
        self.shown = {"id": str(uuid.uuid4()), "name": name}
        self.names: dict[str, Any] = {}
        self.count = 0

    def run(self, code: str, tell: Any) -> None:
        self.count += 1
        tell("status", execution_state="busy")
        self.names["display"] = lambda data: tell("display_data", data=data, metadata={})
        output, errors = (Stream(name, tell) for name in ("stdout", "stderr"))
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):  # type: ignore[type-var]
                value = self.evaluate(code)
        except Exception as error:
            lines = traceback.format_exc().splitlines()
            tell("error", ename=type(error).__name__, evalue=str(error), traceback=lines)
        else:
            if value is not None:
                tell("execute_result", data={"text/plain": repr(value)}, execution_count=self.count, metadata={})
        tell("status", execution_state="idle")

    def evaluate(self, code: str) -> Any:
        """Run a cell; the value is that of an expression at its end."""
        cell = ast.parse(code)
        last = cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, "cell", "exec"), self.names)
        return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), self.names)


class Stream:
    """What a cell prints to."""

    def __init__(self, name: str, tell: Any) -> None:
        self.name = name
        self.tell = tell

    def write(self, text: str) -> int:
        self.tell("stream", name=self.name, text=text)
        return len(text)

    def flush(self) -> None: ...


kernels: dict[str, Kernel] = {}


class Jupyter(Handler):
    """``/api/kernels`` and ``/api/kernels/{id}/channels``."""

    def on_api(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[2:]:
            self.channels(kernels[parts[2]])
        elif self.command == "POST":
            kernel = Kernel(json.loads(self.body())["name"])
            kernels[kernel.shown["id"]] = kernel
            self.answer(201, json.dumps(kernel.shown).encode(), ("Content-Type", "application/json"))
        else:
            found = json.dumps([kernel.shown for kernel in kernels.values()])
            self.answer(200, found.encode(), ("Content-Type", "application/json"))

    def channels(self, kernel: Kernel) -> None:
        self.accept_socket()
        while True:
            kind, data = read_frame(self.rfile)
            if kind == 8:
                return
            asked = json.loads(data)

            def tell(kind: str, parent: Any = asked["header"], **content: Any) -> None:
                message = {"header": {"msg_type": kind}, "parent_header": parent, "content": content}
                self.wfile.write(frame(1, json.dumps(message).encode()))
                self.wfile.flush()

            kernel.run(asked["content"]["code"], tell)


if __name__ == "__main__":
    serve(Jupyter)
