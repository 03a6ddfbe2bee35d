"""Downloads of which a client may ask for a part."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from anvild.sdk import AnvilError

from .request import Answer, ByteStream, Request

__all__ = ["RangeNotSatisfiable", "download"]

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class RangeNotSatisfiable(AnvilError):
    """The part that was asked for lies outside of the file."""

    code = "range_not_satisfiable"
    http = 416


def download(
    request: Request,
    open_part: Callable[[int, int], ByteStream],
    *,
    size: int,
    media_type: str,
    etag: str,
    filename: str | None = None,
) -> Answer:
    """Return the answer of a download: the whole, the part that a Range header names, or 304.

    ``open_part(offset, length)`` gives the bytes, in pieces of about 256 KiB. ``etag`` names this very content, so that
    a client can resume (If-Range) or need not fetch again (If-None-Match). With ``filename`` browsers save it.
    Several ranges at once get the whole. Raises RangeNotSatisfiable.
    """
    tag = f'"{etag}"'
    headers = [("etag", tag), ("accept-ranges", "bytes"), ("x-content-type-options", "nosniff")]
    if filename is not None:
        headers.append(("content-disposition", f"attachment; filename*=UTF-8''{quote(filename, safe='')}"))
    if tag in (part.strip() for part in request.headers.get("if-none-match", "").split(",")):
        return Answer(304, headers=headers)
    part = _part(request, tag, size)
    if part is None:
        headers.append(("content-length", str(size)))
        return Answer(200, open_part(0, size), headers=headers, media_type=media_type)
    offset, length = part
    headers.append(("content-length", str(length)))
    headers.append(("content-range", f"bytes {offset}-{offset + length - 1}/{size}"))
    return Answer(206, open_part(offset, length), headers=headers, media_type=media_type)


def _part(request: Request, tag: str, size: int) -> tuple[int, int] | None:
    """Return offset and length of the part that is asked for; None for the whole."""
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or request.headers.get("if-range", tag) != tag:
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
    if start > end or start >= size:
        raise RangeNotSatisfiable(f"the file has {size} bytes", size=size)
    return start, end - start + 1
