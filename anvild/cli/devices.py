"""``anvil devices`` (or ``device``): list devices, make and remove them, use them by hand."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from .api import Document, connect
from .context import Ctx
from .lookup import device_id
from .output import Output
from .wire import Device, read, read_all

__all__ = ["app"]

app = App(name="devices")
app.command("anvild.cli.hands:exec_", name="exec", help="Run a program on a device; its exit code becomes anvil's.")
app.command("anvild.cli.terminal:shell", name="shell", help="Open a terminal on a device.")
app.command("anvild.cli.files:push", name="push", help="Copy a file to a device.")
app.command("anvild.cli.files:pull", name="pull", help="Copy a file from a device.")


@app.default
@app.command(name="list")
async def list_devices(
    *,
    status: Annotated[str | None, Parameter(help="Only devices in this state.")] = None,
    context: Ctx,
) -> None:
    """List the devices that your team can use."""
    async with connect(context) as api:
        answer = await api.get("/devices")
    chosen = [device for device in answer["devices"] if status in (None, device["status"])]
    if context.output.json:
        context.output.document({"devices": chosen})
        return
    context.output.table(
        ["id", "name", "model", "version", "status", "capabilities"],
        [
            (each.id, each.name, each.model, each.firmware_version, each.status, " ".join(each.capabilities))
            for each in read_all({"devices": chosen}, "devices", Device)
        ],
        empty="There are no devices.",
    )


@app.command
async def show(device: str, /, *, context: Ctx) -> None:
    """Show one device with all that is known of it."""
    async with connect(context) as api:
        _show(context.output, await api.get(f"/devices/{await device_id(api, device)}"))


@app.command
async def register(
    name: str,
    /,
    *,
    model: Annotated[str | None, Parameter(help="Its model.")] = None,
    firmware: Annotated[str | None, Parameter(help="Version of its system.")] = None,
    capability: Annotated[tuple[str, ...], Parameter(negative="", help="What it can do; repeatable.")] = (),
    context: Ctx,
) -> None:
    """Add a device by hand: one that no driver finds by itself."""
    body = {"name": name, "model": model, "firmwareVersion": firmware, "capabilities": list(capability)}
    async with connect(context) as api:
        answer = await api.post("/devices", {field: value for field, value in body.items() if value})
    _told(context.output, answer)


@app.command
async def make(
    template: str,
    /,
    *,
    driver: Annotated[str | None, Parameter(help="Driver to make it; the first that has the template if none.")] = None,
    name: Annotated[str | None, Parameter(help="Its name; the template's if none.")] = None,
    vcpus: Annotated[int | None, Parameter(help="Virtual processors.")] = None,
    memory: Annotated[int | None, Parameter(help="Memory in MiB.")] = None,
    context: Ctx,
) -> None:
    """Make a device from a template and wait until it is ready."""
    body = {
        "template": template,
        "driver": driver,
        "name": name,
        "vcpus": vcpus,
        "memory": memory and memory * 2**20,
    }
    async with connect(context) as api:
        answer = await api.post("/devices/made", {field: value for field, value in body.items() if value is not None})
    _told(context.output, answer)


@app.command
async def remove(device: str, /, *, context: Ctx) -> None:
    """Retire a device; one that was made to order is destroyed."""
    async with connect(context) as api:
        answer = await api.delete(f"/devices/{await device_id(api, device)}")
    if context.output.json:
        context.output.document(answer or {"id": device, "removed": True})
    else:
        context.output.say(f"{device} removed")


@app.command
async def take(
    device: str,
    /,
    *,
    seconds: Annotated[float | None, Parameter(help="For how long; the operator's default if none.")] = None,
    context: Ctx,
) -> None:
    """Hold a device for a while: nobody else gets it, and it is cleaned when you give it back."""
    async with connect(context) as api:
        body = {} if seconds is None else {"seconds": seconds}
        answer = await api.post(f"/devices/{await device_id(api, device)}/lease", body)
    if context.output.json:
        context.output.document(answer)
    else:
        context.output.say(f"{device} is yours for {answer['lease']['seconds']:g} s")


@app.command
async def give_back(device: str, /, *, context: Ctx) -> None:
    """Give back a device that you took, and wait until it is clean."""
    async with connect(context) as api:
        await api.delete(f"/devices/{await device_id(api, device)}/lease")
    if context.output.json:
        context.output.document({"device": device, "givenBack": True})
    else:
        context.output.say(f"{device} is free")


@app.command
async def rearm(device: str, /, *, context: Ctx) -> None:
    """Take a device out of quarantine: it is cleaned again, and offered when that works."""
    async with connect(context) as api:
        answer = await api.post(f"/devices/{await device_id(api, device)}/rearm")
    if context.output.json:
        context.output.document(answer)
    else:
        context.output.say(f"{device} {read(answer, 'device', Device).status}")


def _told(output: Output, answer: Document) -> None:
    if output.json:
        output.document(answer)
    else:
        output.say(read(answer, "device", Device).id)


def _show(output: Output, answer: Document) -> None:
    if output.json:
        output.document(answer)
        return
    device = read(answer, "device", Device)
    rows = [
        ("id", device.id),
        ("name", device.name),
        ("status", device.status),
        ("model", device.model),
        ("version", device.firmware_version),
        ("capabilities", " ".join(device.capabilities)),
        ("created", device.created_at.isoformat(timespec="seconds")),
        *((name, value) for name, value in (device.metadata or {}).items()),
    ]
    output.table(["field", "value"], [row for row in rows if row[1] is not None], empty="")
