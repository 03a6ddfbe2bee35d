"""Artifacts: what runs leave behind, as content-addressed files with rows."""

from anvild.core.artifacts.artifacts import Artifacts, open_artifacts
from anvild.core.artifacts.values import Artifact, SweepReport

__all__ = ["Artifact", "Artifacts", "SweepReport", "open_artifacts"]
