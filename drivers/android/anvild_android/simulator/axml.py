"""Android's binary XML, as far as a manifest needs it: written for made packages, read from any."""

from __future__ import annotations

import struct

import msgspec

__all__ = ["ANDROID", "Element", "read_xml", "write_xml"]

ANDROID = "http://schemas.android.com/apk/res/android"
POOL, XML, MAP = 0x0001, 0x0003, 0x0180
START_NAMESPACE, END_NAMESPACE, START_ELEMENT, END_ELEMENT = 0x0100, 0x0101, 0x0102, 0x0103
UTF8 = 1 << 8
NONE = 0xFFFFFFFF
REFERENCE, STRING, DECIMAL, HEXADECIMAL, BOOLEAN = 0x01, 0x03, 0x10, 0x11, 0x12

# The names of attributes that stand for a number of the platform's resources.
RESOURCES = {
    "label": 0x01010001,
    "name": 0x01010003,
    "debuggable": 0x0101000F,
    "exported": 0x01010010,
    "targetPackage": 0x01010021,
    "minSdkVersion": 0x0101020C,
    "versionCode": 0x0101021B,
    "versionName": 0x0101021C,
    "targetSdkVersion": 0x01010270,
}
_NAMES = {number: name for name, number in RESOURCES.items()}


class Element(msgspec.Struct):
    """An element: attributes of the platform by their bare names, and those without a namespace after a colon."""

    name: str
    attributes: dict[str, str | int | bool] = {}
    children: list[Element] = []

    def find(self, name: str) -> list[Element]:
        """The children of a name."""
        return [child for child in self.children if child.name == name]


def _chunk(kind: int, head: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<HHI", kind, 8 + len(head), 8 + len(head) + len(body)) + head + body


class _Writer:
    def __init__(self) -> None:
        self._strings = list(RESOURCES)
        self._body = bytearray()

    def _index(self, text: str) -> int:
        if text not in self._strings:
            self._strings.append(text)
        return self._strings.index(text)

    def _node(self, kind: int, content: bytes) -> None:
        self._body += _chunk(kind, struct.pack("<II", 1, NONE), content)

    def element(self, element: Element) -> None:
        attributes = b""
        # The platform looks attributes up by bisection: they stand in the order of their numbers.
        for name, value in sorted(element.attributes.items(), key=lambda each: RESOURCES.get(each[0], NONE)):
            space = NONE if name.startswith(":") else self._index(ANDROID)
            attributes += struct.pack("<II", space, self._index(name.removeprefix(":"))) + self._value(value)
        head = struct.pack("<IIHHHHHH", NONE, self._index(element.name), 20, 20, len(element.attributes), 0, 0, 0)
        self._node(START_ELEMENT, head + attributes)
        for child in element.children:
            self.element(child)
        self._node(END_ELEMENT, struct.pack("<II", NONE, self._index(element.name)))

    def _value(self, value: str | int | bool) -> bytes:
        if isinstance(value, str):
            at = self._index(value)
            return struct.pack("<IHBBI", at, 8, 0, STRING, at)
        kind, data = (BOOLEAN, NONE if value else 0) if isinstance(value, bool) else (DECIMAL, value)
        return struct.pack("<IHBBI", NONE, 8, 0, kind, data)

    def document(self, root: Element) -> bytes:
        names = struct.pack("<II", self._index("android"), self._index(ANDROID))
        self._node(START_NAMESPACE, names)
        self.element(root)
        self._node(END_NAMESPACE, names)
        resources = _chunk(MAP, b"", b"".join(struct.pack("<I", number) for number in RESOURCES.values()))
        return _chunk(XML, b"", self._pool() + resources + bytes(self._body))

    def _pool(self) -> bytes:
        offsets, texts = b"", b""
        for text in self._strings:
            offsets += struct.pack("<I", len(texts))
            coded = text.encode("utf-16-le")
            texts += struct.pack("<H", len(coded) // 2) + coded + b"\0\0"
        texts += bytes(-len(texts) % 4)
        head = struct.pack("<IIIII", len(self._strings), 0, 0, 28 + len(offsets), 0)
        return _chunk(POOL, head, offsets + texts)


def write_xml(root: Element) -> bytes:
    """Return a document as the platform reads it."""
    return _Writer().document(root)


def _length(data: bytes, at: int, *, wide: bool) -> tuple[int, int]:
    """Read a string's length and return it with the place after it; long ones take twice the room."""
    unit = 2 if wide else 1
    first = int.from_bytes(data[at : at + unit], "little")
    high = 1 << (8 * unit - 1)
    if not first & high:
        return first, at + unit
    second = int.from_bytes(data[at + unit : at + 2 * unit], "little")
    return (first & high - 1) << 8 * unit | second, at + 2 * unit


def _read_pool(data: bytes) -> list[str]:
    (head,) = struct.unpack_from("<H", data, 2)
    count, _styles, flags, start, _style_start = struct.unpack_from("<IIIII", data, 8)
    found = []
    for offset in struct.unpack_from(f"<{count}I", data, head):
        at = start + offset
        if flags & UTF8:
            _characters, at = _length(data, at, wide=False)
            size, at = _length(data, at, wide=False)
            found.append(data[at : at + size].decode(errors="replace"))
        else:
            size, at = _length(data, at, wide=True)
            found.append(data[at : at + 2 * size].decode("utf-16-le", errors="replace"))
    return found


def _read_element(data: bytes, head: int, strings: list[str], resources: tuple[int, ...]) -> Element:
    _space, name, start, size, count = struct.unpack_from("<IIHHH", data, head)
    element = Element(strings[name], {}, [])
    for number in range(count):
        space, key, _raw, _size, _zero, kind, value = struct.unpack_from("<IIIHBBI", data, head + start + number * size)
        bare = _NAMES.get(resources[key], strings[key]) if key < len(resources) else strings[key]
        if kind == STRING:
            read: str | int | bool = strings[value]
        elif kind == BOOLEAN:
            read = value != 0
        else:
            read = value
        element.attributes[f":{bare}" if space == NONE else bare] = read
    return element


def read_xml(data: bytes) -> Element:
    """Read a document. Raises ValueError for what is none."""
    try:
        return _read(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"binary XML ends or breaks off: {error}") from None


def _read(data: bytes) -> Element:
    kind, at, total = struct.unpack_from("<HHI", data)
    if kind != XML:
        raise ValueError("not binary XML")
    strings: list[str] = []
    resources: tuple[int, ...] = ()
    document = Element("", {}, [])
    path = [document]
    while at < min(total, len(data)):
        kind, head, size = struct.unpack_from("<HHI", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError("binary XML breaks off")
        chunk = data[at : at + size]
        if kind == POOL:
            strings = _read_pool(chunk)
        elif kind == MAP:
            resources = struct.unpack_from(f"<{(size - head) // 4}I", chunk, head)
        elif kind == START_ELEMENT:
            element = _read_element(chunk, head, strings, resources)
            path[-1].children.append(element)
            path.append(element)
        elif kind == END_ELEMENT:
            path.pop()
        at += size
    if len(path) != 1 or len(document.children) != 1:
        raise ValueError("binary XML without one root")
    return document.children[0]
