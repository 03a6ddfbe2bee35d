"""Binding a pipeline to the values of one run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from .model import Frozen, Given, Pipeline
from .parts import PipelineError
from .problems import suggestion

__all__ = ["freeze", "texts"]

MAX_VALUE = 64 * 1024


def freeze(pipeline: Pipeline, metadata: Mapping[str, Any], inputs: Mapping[str, Given] | None = None) -> Frozen:
    """Bind a pipeline to ``metadata["parameters"]`` and ``metadata["env"]``, both tables of texts, numbers or booleans,
    and to the ``inputs`` that the run brings. Raises PipelineError for an unknown, missing or unfitting one."""
    given = texts(metadata, "parameters")
    _known(pipeline, "parameter", given, pipeline.parameters)
    values: dict[str, str] = {}
    for key, parameter in pipeline.parameters.items():
        value = given.get(key, parameter.default)
        if value is None:
            raise PipelineError(
                f"the pipeline {pipeline.name!r} needs the parameter {key!r}: give it in metadata.parameters"
            )
        if parameter.pattern is not None and re.fullmatch(parameter.pattern, value) is None:
            raise PipelineError(f"the parameter {key!r} must match {parameter.pattern!r}")
        values[key] = value
    brought = inputs or {}
    _known(pipeline, "input", brought, pipeline.inputs)
    for key, wanted in pipeline.inputs.items():
        if wanted.required and key not in brought:
            raise PipelineError(
                f"the pipeline {pipeline.name!r} needs the input {key!r}: upload the file, and give the id of the "
                "upload in metadata.inputs"
            )
    try:
        return msgspec.convert(
            {
                "pipeline": msgspec.to_builtins(pipeline),
                "parameters": values,
                "env": texts(metadata, "env"),
                "inputs": msgspec.to_builtins(dict(brought)),
            },
            Frozen,
        )
    except msgspec.ValidationError as error:
        raise PipelineError(f"metadata.env is not an environment: {error}") from None


def _known(pipeline: Pipeline, what: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    for key in given:
        if key not in declared:
            raise PipelineError(f"the pipeline {pipeline.name!r} has no {what} {key!r}; {suggestion(key, declared)}")


def texts(metadata: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return the table ``key`` of a run's metadata as texts. Raises PipelineError where it is none."""
    table = metadata.get(key)
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise PipelineError(f"metadata.{key} must be an object of names and values")
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        else:
            raise PipelineError(f"metadata.{key}.{name} must be a text, a number or a boolean")
        if len(found[name]) > MAX_VALUE:
            raise PipelineError(f"metadata.{key}.{name} is longer than {MAX_VALUE} characters")
    return found
