"""Pipelines: descriptions of app tests as data, and how they are read.

A pipeline is a TOML file: what it needs of a device, its parameters and inputs, and steps, each a verb with parameters
and expectations. ``model`` says what may stand in it, with the steps in ``verbs`` and ``app_verbs``; ``parse`` turns a
file into the model or says what is wrong and where, ``rules`` what contradicts itself; ``freeze`` binds a pipeline to
the values of a run; ``catalogue`` finds the files.
"""

from __future__ import annotations

from .app_verbs import (
    Clear,
    CrashReportsStep,
    Install,
    Launch,
    LogsStep,
    Record,
    Screenshot,
    Stop,
    Test,
    TestExpectation,
    Uninstall,
)
from .catalogue import Catalogue
from .freeze import freeze
from .model import Frozen, Given, Pipeline
from .parse import examine, parse
from .parts import MAX_FILE, PipelineError, Step
from .problems import Problem, suggestion
from .verbs import (
    Assert,
    ExecExpectation,
    ExecStep,
    FindingStep,
    ListExpectation,
    ListStep,
    Pull,
    Push,
    Reboot,
    Wait,
)

__all__ = [
    "MAX_FILE",
    "Assert",
    "Catalogue",
    "Clear",
    "CrashReportsStep",
    "ExecExpectation",
    "ExecStep",
    "FindingStep",
    "Frozen",
    "Given",
    "Install",
    "Launch",
    "ListExpectation",
    "ListStep",
    "LogsStep",
    "Pipeline",
    "PipelineError",
    "Problem",
    "Pull",
    "Push",
    "Reboot",
    "Record",
    "Screenshot",
    "Step",
    "Stop",
    "Test",
    "TestExpectation",
    "Uninstall",
    "Wait",
    "examine",
    "freeze",
    "parse",
    "suggestion",
]
