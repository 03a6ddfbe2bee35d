"""Run by the Python of a sandbox: compile a program's modules into one file that starts without looking for them.

bundle.py TARGET FILE...     the sources, by their names below the present directory; one is ``__main__.py``
"""

from __future__ import annotations

import importlib.util
import marshal
import sys

START = """
import marshal
import sys

CODES = marshal.loads({codes!r})


class Bundle:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in CODES:
            return type(sys.__spec__)(name, Bundle, is_package=CODES[name][1])

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(CODES[module.__name__][0], module.__dict__)


sys.meta_path.insert(0, Bundle)
exec(CODES["__main__"][0])
"""


def bundle(names: list[str]) -> bytes:
    """Return the sources as one compiled program. Raises OSError, SyntaxError."""
    codes = {}
    for name in names:
        module = name[: -len(".py")].replace("/", ".")
        with open(name, "rb") as file:  # noqa: PTH123 runs on a minimal Python
            code = compile(file.read(), name, "exec", dont_inherit=True)
        codes[module.removesuffix(".__init__")] = (code, module.endswith(".__init__"))
    start = compile(START.format(codes=marshal.dumps(codes)), "bundle", "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(start)


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as target:  # noqa: PTH123 likewise
        target.write(bundle(sys.argv[2:]))
