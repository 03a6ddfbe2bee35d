"""The rings of a capsule's metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from anvild.capsules.metrics import Point, Rings, cut
from anvild.sdk import Sample

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def filled(samples: int, vcpus: int = 2) -> Rings:
    rings = Rings()
    for number in range(samples):
        at = BEGIN + timedelta(seconds=number / 2)
        rings.add(Sample(at=at, cpu=100.0 * (number % 2), memory=number, disk=1000), vcpus)
    return rings


def test_points_are_gathered_into_means_and_bounded() -> None:
    fine, mid, coarse = filled(60 * 10 * 300).points
    assert (len(fine), len(mid), len(coarse)) == (1200, 240, 288)
    begin = BEGIN.timestamp()
    fine, mid, coarse = filled(600).points
    assert (len(fine), len(mid), len(coarse)) == (600, 10, 1)
    assert mid[0] == Point(begin + 29.5, 25.0, 29, 1000)
    assert coarse == [Point(begin + 299.5, 25.0, 299, 1000)]


def test_the_processors_share_is_held_to_a_hundred() -> None:
    rings = Rings()
    for cpu in (-5.0, 50.0, 900.0):
        rings.add(Sample(at=BEGIN, cpu=cpu, memory=0, disk=0), 4)
    assert [point.cpu for point in rings.points[0]] == [0.0, 12.5, 100.0]


def test_a_range_is_cut_from_its_ring() -> None:
    rings = filled(1200)
    end = BEGIN.timestamp() + 600
    assert len(cut(rings.points, "5m", end)) == 599
    assert len(cut(rings.points, "10m", end)) == 1199
    assert len(cut(rings.points, "1h", end)) == 20
    assert len(cut(rings.points, "24h", end)) == 2
    again = Rings(rings.points)
    assert again.points == rings.points
