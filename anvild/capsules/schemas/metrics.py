"""The wire shapes of metrics."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["CapsuleMetrics", "MetricPoint", "MetricsQuery"]

Range = Literal["5m", "10m", "1h", "2h", "6h", "12h", "24h"]
Int64 = Annotated[int, msgspec.Meta(extra_json_schema={"format": "int64"})]


class MetricsQuery(msgspec.Struct):
    """How far back."""

    range: Range = "10m"


class MetricPoint(msgspec.Struct):
    """What a capsule used at a moment. ``cpu_pct`` is percent of all its processors."""

    timestamp_unix: Int64
    cpu_pct: Annotated[float, msgspec.Meta(extra_json_schema={"format": "double"})]
    mem_bytes: Int64
    disk_bytes: Int64


class CapsuleMetrics(msgspec.Struct):
    """What a capsule used, oldest first."""

    sandbox_id: str
    range: Range
    points: list[MetricPoint]
