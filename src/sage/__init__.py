"""SAGE: a declarative dataflow framework for end-to-end LLM inference orchestration.

Say what each field of a record is made from; SAGE derives the graph and runs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sage.pipeline import Pipeline

if TYPE_CHECKING:
    from sage.default import run_all
    from sage.errors import (
        EngineError,
        Expired,
        InputError,
        PipelineError,
        PolicyError,
        Rejected,
        SageError,
        SetupError,
        StepError,
    )
    from sage.graph.values import Passage, Record, Vector
    from sage.index.index import Index
    from sage.ops.functions import register
    from sage.runtime.base import JobFailure, RecordDone, StepDone, StepStarted, Token
    from sage.runtime.recorder import RunResult
    from sage.session import Session
    from sage.settings import Settings
    from sage.tenants import Tenant

__version__ = "0.1.0"

__all__ = [
    "EngineError",
    "Expired",
    "Index",
    "InputError",
    "JobFailure",
    "Passage",
    "Pipeline",
    "PipelineError",
    "PolicyError",
    "Record",
    "RecordDone",
    "Rejected",
    "RunResult",
    "SageError",
    "Session",
    "Settings",
    "SetupError",
    "StepDone",
    "StepError",
    "StepStarted",
    "Tenant",
    "Token",
    "Vector",
    "register",
    "run_all",
]

_HOMES = {
    "Index": "sage.index.index",
    "JobFailure": "sage.runtime.base",
    "Passage": "sage.graph.values",
    "Record": "sage.graph.values",
    "RecordDone": "sage.runtime.base",
    "RunResult": "sage.runtime.recorder",
    "Session": "sage.session",
    "Settings": "sage.settings",
    "StepDone": "sage.runtime.base",
    "StepStarted": "sage.runtime.base",
    "Tenant": "sage.tenants",
    "Token": "sage.runtime.base",
    "Vector": "sage.graph.values",
    "register": "sage.ops.functions",
    "run_all": "sage.default",
}


def __getattr__(name: str) -> Any:
    """Names of the public API, imported when first used so that ``import sage`` stays quick."""
    if name == "stream":  # a package: ``sage.stream.read`` without importing it first
        return importlib.import_module("sage.stream")
    if name not in __all__:
        raise AttributeError(f"module 'sage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "sage.errors")), name)
