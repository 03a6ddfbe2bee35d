"""Pipelines: descriptions of app tests as data, and how they are read.

A pipeline is a TOML file: what it needs of a device, its parameters, and steps, each a verb with parameters and
expectations. ``model`` says what may stand in it, ``parse`` turns a file into the model or says what is wrong and
where, ``catalogue`` finds the files.
"""

from __future__ import annotations

from .catalogue import Catalogue
from .model import (
    Collect,
    ExecExpectation,
    ExecStep,
    FindingStep,
    Frozen,
    ListExpectation,
    ListStep,
    Pipeline,
    PipelineError,
    Push,
    Step,
    Wait,
)
from .parse import freeze, parse

__all__ = [
    "Catalogue",
    "Collect",
    "ExecExpectation",
    "ExecStep",
    "FindingStep",
    "Frozen",
    "ListExpectation",
    "ListStep",
    "Pipeline",
    "PipelineError",
    "Push",
    "Step",
    "Wait",
    "freeze",
    "parse",
]
