"""From the daemon's values to the shapes on the wire."""

from __future__ import annotations

from typing import Any, Literal

from anvild.core.artifacts import Artifact
from anvild.core.engine import Device, DriverInfo, Finding, Run, RunState
from anvild.core.identity import ApiKey, Principal
from anvild.core.ids import id_of_event
from anvild.core.plugins import PluginInfo
from anvild.sdk import Event

from . import schemas as wire
from .pipelines.catalogue import Listed

__all__ = [
    "audit_shape",
    "device_shape",
    "driver_shape",
    "event_shape",
    "finding_shape",
    "key_shape",
    "pipeline_shape",
    "plugin_shape",
    "principal_shape",
    "run_shape",
    "state_shape",
    "upload_shape",
]

Status = Literal["queued", "running", "passed", "failed", "cancelled"]

STATUSES: dict[RunState, Status] = {
    RunState.DRAFT: "queued",
    RunState.QUEUED: "queued",
    RunState.RUNNING: "running",
    RunState.PAUSED: "running",
    RunState.PASSED: "passed",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
}
"""The contract knows five words for the seven states of a run; ``GET /runs/{id}/state`` tells them all."""


def run_shape(run: Run) -> wire.Run:
    """Return a run; ``deviceId`` is the device that it is or was on, or the one that it asks for."""
    return wire.Run(
        id=run.id,
        org_id=run.team_id,
        pipeline=run.name,
        device_id=run.used_device_id or run.device_id,
        status=STATUSES[run.state],
        metadata=None if run.metadata is None else dict(run.metadata),
        created_at=run.created_at,
        created_by=run.created_by,
    )


def state_shape(run: Run) -> wire.RunState:
    """Return what the contract's status does not tell."""
    return wire.RunState(
        id=run.id,
        state=run.state.value,
        phase=run.phase,
        reason_code=run.reason_code,
        reason=run.reason,
        waiting=run.waiting,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        used_device_id=run.used_device_id,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def finding_shape(finding: Finding) -> wire.Finding:
    """Return a finding."""
    return wire.Finding(
        id=finding.id,
        run_id=finding.run_id,
        severity=finding.severity.value,
        category=finding.category,
        title=finding.title,
        detail=finding.detail,
        created_at=finding.created_at,
    )


def device_shape(device: Device, team_id: str) -> wire.Device:
    """Return a device as the team ``team_id`` sees it: one that the lab shares is shown as the team's."""
    return wire.Device(
        id=device.id,
        org_id=device.team_id or team_id,
        name=device.name,
        model=device.model,
        firmware_version=device.firmware_version,
        capabilities=device.capabilities,
        metadata=device.metadata if device.by_hand else _facts(device),
        status=device.status.value,
        created_at=device.created_at,
    )


def _facts(device: Device) -> dict[str, Any]:
    """What is known of a device that a driver found or made, where the contract has no field for it."""
    told = {
        "driver": device.driver,
        "host": device.host,
        "platform": device.platform,
        "reason": device.reason,
        "quarantine": device.quarantine,
    }
    known: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    return {**device.facts, **known, "madeToOrder": device.made_to_order}


def key_shape(key: ApiKey) -> wire.ApiKeyListed:
    """Return a key without its text."""
    return wire.ApiKeyListed(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=key.scopes,
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        revoked_at=key.revoked_at,
    )


def audit_shape(event: Event, team_id: str) -> wire.AuditEvent:
    """Return an entry of the audit log of a team."""
    return wire.AuditEvent(
        id=id_of_event(event.id),
        org_id=team_id,
        actor=event.actor,
        action=event.kind,
        resource_type=event.subject_type,
        resource_id=event.subject_id,
        metadata=event.data,
        ip=event.ip,
        user_agent=event.user_agent,
        created_at=event.at,
    )


def event_shape(event: Event) -> wire.Event:
    """Return an event as the streams show it."""
    return wire.Event(
        id=event.id,
        at=event.at,
        kind=event.kind,
        subject_type=event.subject_type,
        subject_id=event.subject_id,
        run_id=event.run_id,
        actor=event.actor,
        data=event.data,
    )


def pipeline_shape(listed: Listed) -> wire.Pipeline:
    """Return a pipeline, or why it cannot be used."""
    pipeline = listed.pipeline
    if pipeline is None:
        return wire.Pipeline(
            name=listed.name,
            description="",
            platforms=(),
            capabilities=(),
            parameters={},
            inputs={},
            steps=0,
            problem=listed.problem,
        )
    needs = pipeline.requirements()
    return wire.Pipeline(
        name=listed.name,
        description=pipeline.description,
        platforms=needs.platforms,
        capabilities=needs.capabilities,
        parameters={name: parameter.default for name, parameter in pipeline.parameters.items()},
        inputs={
            name: wire.PipelineInput(description=each.description, required=each.required)
            for name, each in pipeline.inputs.items()
        },
        steps=sum(len(steps) for _, steps in pipeline.sections()),
        problem=None,
    )


def upload_shape(artifact: Artifact) -> wire.Upload:
    """Return an upload."""
    return wire.Upload(
        id=artifact.id,
        name=artifact.name,
        media_type=artifact.media_type,
        size=artifact.size,
        sha256=artifact.sha256,
        created_at=artifact.stored_at,
    )


def plugin_shape(info: PluginInfo) -> wire.Plugin:
    """Return a plugin."""
    return wire.Plugin(
        name=info.name,
        distribution=info.distribution,
        version=info.version,
        api=info.api,
        hooks=info.hooks,
        state=info.state.value,
        reason=info.reason,
        grade=info.grade,
    )


def driver_shape(info: DriverInfo) -> wire.Driver:
    """Return a driver with its health."""
    return wire.Driver(
        name=info.name,
        version=info.version,
        state=info.state,
        health=info.health.value,
        reason=info.reason,
        platforms=info.platforms,
        capabilities=info.capabilities,
        slots=info.slots,
        slots_used=info.slots_used,
        devices=info.devices,
        facts=info.facts,
    )


def principal_shape(principal: Principal, *, email: str | None) -> wire.Me:
    """Return who somebody is; ``email`` is of the person behind the credential, if there is one."""
    team = None if principal.team_id is None else wire.MemberTeam(id=principal.team_id, role=principal.role)
    user = None
    if principal.user_id is not None:
        user = wire.PersonMe(id=principal.user_id, email=email, name=principal.name, is_admin=principal.is_admin)
    scopes = None if principal.scopes is None else tuple(sorted(principal.scopes))
    return wire.Me(actor=principal.actor, kind=principal.kind, name=principal.name, team=team, user=user, scopes=scopes)
