"""Objects as Apple's keyed archives: the few kinds that the developer services exchange."""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from typing import Any

from .plists import decode_plist
from .streams import WireGarbled

__all__ = ["archive", "unarchive"]

MAX_DEPTH = 50


def archive(value: Any) -> bytes:
    """Write None, a text, number, truth value, bytes, sequence or mapping."""
    objects: list[Any] = ["$null"]
    classes: dict[str, plistlib.UID] = {}

    def kind(name: str) -> plistlib.UID:
        if name not in classes:
            classes[name] = plistlib.UID(len(objects))
            objects.append({"$classname": name, "$classes": [name, "NSObject"]})
        return classes[name]

    def put(each: Any) -> plistlib.UID:
        if each is None:
            return plistlib.UID(0)
        place = plistlib.UID(len(objects))
        objects.append(each)
        if isinstance(each, Mapping):
            keys, values = [put(key) for key in each], [put(value) for value in each.values()]
            objects[place.data] = {"NS.keys": keys, "NS.objects": values, "$class": kind("NSDictionary")}
        elif isinstance(each, Sequence) and not isinstance(each, str | bytes):
            objects[place.data] = {"NS.objects": [put(one) for one in each], "$class": kind("NSArray")}
        return place

    top = put(value)
    whole = {"$version": 100000, "$archiver": "NSKeyedArchiver", "$top": {"root": top}, "$objects": objects}
    return plistlib.dumps(whole, fmt=plistlib.FMT_BINARY)


def unarchive(data: bytes) -> Any:
    """Read an archive. Objects of other kinds become mappings of their fields. Raises WireGarbled."""
    whole = decode_plist(data)
    objects, top = whole.get("$objects"), whole.get("$top")
    if not isinstance(objects, list) or not isinstance(top, dict):
        raise WireGarbled("it is no keyed archive")
    return _get(objects, top.get("root"), 0)


def _get(objects: list[Any], place: Any, depth: int) -> Any:
    if not isinstance(place, plistlib.UID) or place.data >= len(objects) or depth > MAX_DEPTH:
        raise WireGarbled("a keyed archive refers to what it does not hold")
    if place.data == 0:  # where every archive keeps its null
        return None
    value = objects[place.data]
    if not isinstance(value, dict):
        return value
    if "NS.keys" in value:
        keys, values = (_all(objects, value.get(name), depth) for name in ("NS.keys", "NS.objects"))
        return {str(key): each for key, each in zip(keys, values, strict=False)}
    if "NS.objects" in value:
        return _all(objects, value["NS.objects"], depth)
    for plain in ("NS.string", "NS.data", "NS.time"):
        if plain in value:
            return value[plain]
    return {
        name: _get(objects, each, depth + 1) if isinstance(each, plistlib.UID) else each
        for name, each in value.items()
        if name != "$class"
    }


def _all(objects: list[Any], places: Any, depth: int) -> list[Any]:
    if not isinstance(places, list):
        raise WireGarbled("a keyed archive holds a list that is none")
    return [_get(objects, each, depth + 1) for each in places]
