"""What a capsule uses."""

from __future__ import annotations

import time

from anvild.web.request import Request

from ..life import Capsules
from ..metrics import cut
from ..schemas import metrics as wire
from .capsules import TAGS
from .common import id_in_path
from .views import View

__all__ = ["add_metrics"]


def add_metrics(view: View, capsules: Capsules) -> None:
    """Add the metrics of a capsule."""

    @view.get(
        "/capsules/{id}/metrics",
        summary="Get per-capsule resource metrics",
        description="Samples of every half second for 10 minutes, means of 30 seconds for 2 hours, of 5 minutes for a "
        "day. Of a paused capsule, those from before its pause.",
        tags=TAGS,
        answers={200: wire.CapsuleMetrics},
        errors={400: "Invalid range parameter", 404: "Capsule not found or metrics not available"},
        query=wire.MetricsQuery,
        action="capsules:read",
    )
    async def get_capsule_metrics(request: Request) -> wire.CapsuleMetrics:
        query: wire.MetricsQuery = request.query
        capsule, rings = await capsules.metrics(view.team(request), id_in_path(request, "cl"))
        until = time.time() if capsule.status == "running" else capsule.updated_at.timestamp()
        return wire.CapsuleMetrics(
            sandbox_id=request.path["id"],
            range=query.range,
            points=[
                wire.MetricPoint(
                    timestamp_unix=int(point.at), cpu_pct=point.cpu, mem_bytes=point.memory, disk_bytes=point.disk
                )
                for point in cut(rings, query.range, until)
            ],
        )
