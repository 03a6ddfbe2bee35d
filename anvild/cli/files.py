"""``anvil device push`` and ``pull``: files to and from a device, streamed from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter

from .api import connect
from .context import Ctx
from .exits import ExitCode, Failure
from .lookup import device_id
from .output import size
from .transfer import copy_out, progress, read_file, save

__all__ = ["pull", "push"]


async def push(
    device: str,
    source: Path,
    target: Annotated[str, Parameter(help="Absolute path on the device; with a / at its end, a directory.")],
    /,
    *,
    mode: Annotated[str | None, Parameter(help="Permission bits in octal, such as 755.")] = None,
    user: Annotated[str | None, Parameter(help="Who shall own it.")] = None,
    context: Ctx,
) -> None:
    """Copy a file to a device. It appears there whole or not at all."""
    if not await trio.Path(source).is_file():
        raise Failure(ExitCode.USAGE, "no_such_file", f"{source} is no file")
    path = f"{target}{source.name}" if target.endswith("/") else target
    total = (await trio.Path(source).stat()).st_size
    async with connect(context) as api:
        target_device = await device_id(api, device)
        with progress(context.output, source.name, total) as bar:
            answer = await api.upload(
                f"/devices/{target_device}/files", read_file(source, bar), path=path, mode=mode, user=user
            )
    if context.output.json:
        context.output.document(answer or {"path": path, "size": total})
    else:
        context.output.say(f"{path}  {size(total)}")


async def pull(
    device: str,
    source: Annotated[str, Parameter(help="Absolute path on the device.")],
    target: Annotated[
        Path, Parameter(allow_leading_hyphen=True, help="File or directory to write; - for standard output.")
    ] = Path(),
    /,
    *,
    context: Ctx,
) -> None:
    """Copy a file from a device."""
    async with connect(context) as api:
        found = await device_id(api, device)
        async with api.download(f"/devices/{found}/files", path=source) as response:
            if str(target) == "-":
                await copy_out(response)
                return
            into_directory = await trio.Path(target).is_dir()
            path = target / source.rpartition("/")[2] if into_directory else target
            count = await save(response, path, context.output)
    if context.output.json:
        context.output.document({"path": str(path), "size": count})
    else:
        context.output.say(f"{path}  {size(count)}")
