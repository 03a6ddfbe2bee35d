"""``anvil device push`` and ``pull``: files to and from a device, streamed from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .api import connect
from .context import Ctx
from .lookup import device_id
from .transfer import pull_file, push_file

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
    async with connect(context) as api:
        at = f"/devices/{await device_id(api, device)}/files"
        await push_file(
            context.output, source, target, lambda path, data: api.upload(at, data, path=path, mode=mode, user=user)
        )


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
            await pull_file(context.output, response, source, target)
