"""The pipeline a user declares: a named, immutable graph of steps over the fields of one record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sage.errors import Fault, InputError, PipelineError
from sage.graph.plan import Plan, compile_plan
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops import OPERATORS, step
from sage.ops.flow import nested

if TYPE_CHECKING:
    from sage.graph.form_read import Written
    from sage.runtime.base import JobFailure, RunEvent
    from sage.runtime.feed import Source
    from sage.runtime.options import RunArguments
    from sage.session import RunResult

__all__ = ["Pipeline", "pipeline_of"]


class Pipeline:
    """What each field of a record is made from.

    Every keyword is a step: the field of that name is made by an operator of ``sage.ops`` or by a plain
    function, which reads the fields its parameters are named after. What a step refers to, it waits for;
    what nobody produces is an input. The order of writing does not matter.

    >>> from sage.ops import template
    >>> shout = Pipeline("shout", loud=lambda text: text.upper(), line=template("{loud}!"))
    >>> shout.inputs
    frozenset({'text'})
    >>> shout(text="hello")["line"]
    'HELLO!'

    Raises:
        PipelineError: naming everything that is wrong with it, before anything runs.
    """

    __slots__ = ("__weakref__", "_declared", "_plan", "_steps")
    _declared: tuple[str, ...] | None
    _plan: Plan
    _steps: Mapping[str, Step]

    def __init__(self, name: str, /, **steps: Step | Callable[..., Any]) -> None:
        self._hold(*_compiled(name, steps, None, None), None)

    @property
    def name(self) -> str:
        """What it is called in logs, charts and errors."""
        return self._plan.name

    @property
    def inputs(self) -> frozenset[str]:
        """Fields a record must bring."""
        return frozenset(self._plan.inputs)

    @property
    def steps(self) -> Mapping[str, Step]:
        """Field -> its step, as declared."""
        return self._steps

    @property
    def plan(self) -> Plan:
        """The checked graph."""
        return self._plan

    @property
    def declared_inputs(self) -> tuple[str, ...] | None:
        """What ``with_inputs`` said; None if nothing did."""
        return self._declared

    def with_inputs(self, *names: str) -> Pipeline:
        """The same pipeline with its inputs said: any other unknown reference is a fault."""
        return self._changed(declared=names, outputs=self._plan.outputs)

    def outputs(self, *names: str) -> Pipeline:
        """The same pipeline whose finished records hold only these fields."""
        return self._changed(declared=self._declared, outputs=names)

    def rename(self, /, **inputs: str) -> Step:
        """As a step of another pipeline, with inputs that read something else: ``question="{rewritten}"``.

        Raises:
            InputError: there is no such input.
        """
        return nested(self, **inputs)

    def __or__(self, other: Pipeline) -> Pipeline:
        """Two pipelines joined by their fields: what the left one makes, the right one may read.

        Raises:
            PipelineError: both have a step of the same name.
        """
        if not isinstance(other, Pipeline):
            return NotImplemented
        name = f"{self.name}|{other.name}"
        twice = [
            Fault(field, "is a step of both pipelines; rename one")
            for field in self.steps
            if field in other.steps
        ]
        if twice:
            raise PipelineError(name, twice)
        return Pipeline(name, **self.steps, **other.steps)

    def __call__(self, /, **fields: Any) -> Record:
        """Run one record and return it, finished. Blocks; inside a running event loop use ``arun``.

        Raises:
            SageError: the job failed.
        """
        from sage.default import call_blocking

        return call_blocking(self, fields)

    def run(self, records: Source, /, **arguments: Unpack[RunArguments]) -> RunResult:
        """Run many records and keep the results. Blocks. See :class:`sage.runtime.options.RunArguments`."""
        from sage.default import run_blocking

        return run_blocking(self, records, arguments)

    async def arun(self, records: Source, /, **arguments: Unpack[RunArguments]) -> RunResult:
        """Run many records and keep the results."""
        from sage.default import run_anywhere

        return await run_anywhere(self, records, arguments)

    def stream(
        self,
        records: Source,
        /,
        *,
        ordered: bool = False,
        errors: Literal["raise", "yield"] = "raise",
        **arguments: Unpack[RunArguments],
    ) -> AsyncIterator[Record | JobFailure]:
        """Run many records and yield each as it finishes; memory stays flat.

        Args:
            records: an iterable or async iterable of mappings; pulled only as places become free.
            ordered: yield in the order of the source.
            errors: "raise" finishes all other records, then raises; "yield" yields a JobFailure in its place.
            **arguments: see :class:`sage.runtime.options.RunArguments`.
        """
        from sage.default import stream_anywhere

        return stream_anywhere(self, records, ordered=ordered, errors=errors, arguments=arguments)

    def events(self, /, **fields: Any) -> AsyncIterator[RunEvent]:
        """Run one record and yield what happens: steps started and done, tokens, the finished record."""
        from sage.default import events_anywhere

        return events_anywhere(self, fields)

    def to_yaml(self) -> str:
        """The pipeline as YAML, which ``from_yaml`` turns into an equal one.

        Raises:
            InputError: a step cannot be written, such as a function that is not registered.
        """
        from sage.graph.yaml import dump_pipeline

        return dump_pipeline(self.name, self._steps, self._declared, self._plan.outputs, OPERATORS)

    @classmethod
    def from_yaml(cls, source: str | Path, /) -> Pipeline:
        """A pipeline from YAML text, or from a file given as a Path.

        Raises:
            InputError: it is no YAML, or not of the form of a pipeline.
            PipelineError: the pipeline has faults.
        """
        from sage.graph.yaml import load_pipeline

        return pipeline_of(load_pipeline(source, OPERATORS))

    def show(self, form: Literal["text", "mermaid", "svg", "json"] = "text") -> str:
        """The plan as text, a mermaid chart, an svg picture, or JSON."""
        from sage.graph.render import RENDERERS

        if form not in RENDERERS:
            raise InputError(f"unknown form {form!r}; choose from {', '.join(map(repr, RENDERERS))}")
        return RENDERERS[form](self._plan)

    def _repr_html_(self) -> str:
        from sage.graph.html import picture_html

        return picture_html(self.show("svg"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return (
            self.name == other.name
            and dict(self._steps) == dict(other._steps)
            and self._declared == other._declared
            and self._plan.outputs == other._plan.outputs
        )

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self._steps))))

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {', '.join(sorted(self.inputs))} -> {', '.join(self._steps)}>"

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(
            f"pipelines are immutable; cannot set {name!r}. Build a new one, or use with_inputs() or outputs()"
        )

    def _hold(self, plan: Plan, steps: Mapping[str, Step], declared: tuple[str, ...] | None) -> None:
        """Take what the pipeline is made of, once."""
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "_steps", steps)
        object.__setattr__(self, "_declared", declared)

    def _changed(self, *, declared: tuple[str, ...] | None, outputs: tuple[str, ...] | None) -> Pipeline:
        return _made(*_compiled(self.name, self._steps, declared, outputs), declared)


def pipeline_of(written: Written) -> Pipeline:
    """The pipeline that was written down.

    Raises:
        PipelineError: with every fault.
    """
    compiled = _compiled(written.name, written.steps, written.inputs, written.outputs, written.faults)
    return _made(*compiled, written.inputs)


def _made(plan: Plan, steps: Mapping[str, Step], declared: tuple[str, ...] | None) -> Pipeline:
    """A pipeline from what is compiled already."""
    pipeline = Pipeline.__new__(Pipeline)
    pipeline._hold(plan, steps, declared)  # noqa: SLF001 - of its own module
    return pipeline


def _compiled(
    name: str,
    given: Mapping[str, Any],
    declared: tuple[str, ...] | None,
    outputs: tuple[str, ...] | None,
    faults: tuple[Fault, ...] = (),
) -> tuple[Plan, Mapping[str, Step]]:
    """The plan and its steps, functions wrapped.

    Raises:
        PipelineError: with every fault.
    """
    found = list(faults)
    if not isinstance(name, str) or not name.strip():  # type: ignore[redundant-expr]  # a caller may not check types
        raise PipelineError(str(name), [Fault(None, f"its name is {name!r}, expected text such as 'rag'")])
    if not given and not found:
        found.append(Fault(None, 'it has no step; give at least one: Pipeline("name", field=…)'))
    steps: dict[str, Step] = {}
    for field, made in given.items():
        try:
            steps[field] = _as_step(field, made)
        except InputError as error:
            found.append(Fault(field, str(error)))
            steps[field] = Step(operator="?", arguments={})
    plan = compile_plan(name, steps, declared_inputs=declared, outputs=outputs, faults=found)
    return plan, MappingProxyType(steps)


def _as_step(field: str, made: Any) -> Step:
    if field.startswith("_"):
        raise InputError("a field's name does not start with an underscore; rename the step")
    if isinstance(made, Step):
        return made
    if isinstance(made, Pipeline):
        return nested(made)
    if callable(made):
        return step(made)
    hint = (
        "write template(…) for text" if isinstance(made, str) else "use an operator of sage.ops or a function"
    )
    raise InputError(f"{made!r} is no step; {hint}. Policy, limits and engines are said at run time")
