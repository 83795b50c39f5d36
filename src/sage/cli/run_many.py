"""``sage run`` with several pipelines: one scheduler in front of all, an input for each."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.cli.output import Bar, print_json, say
from sage.cli.run_results import MAX_SAID, failed_as_json, plain, ticking
from sage.cli.source import Given
from sage.errors import EngineError, InputError

if TYPE_CHECKING:
    from sage import Pipeline, Record
    from sage.runtime.base import JobFailure
    from sage.runtime.files import RecordWriter
    from sage.runtime.together import Stagger

__all__ = ["Many", "One", "for_each"]


def for_each(option: str, said: Sequence[str], pipelines: int) -> list[str | None]:
    """What an option says of each pipeline: said once it holds for all, else once for each, in their order.

    Raises:
        InputError: it is said another number of times.
    """
    if not said:
        return [None] * pipelines
    if len(said) == 1:
        return [said[0]] * pipelines
    if len(said) != pipelines:
        raise InputError(
            f"{option} is given {len(said)} times for {pipelines} pipelines; give it once for each"
        )
    return list(said)


@dataclass(slots=True)
class One:
    """One pipeline: what it is given, what is said of its jobs, and where its results go."""

    pipeline: Pipeline
    given: Given
    options: dict[str, Any]
    output: str | None  # None: results go to standard output, or into the JSON object
    records: list[Any] = field(default_factory=list)
    num_written: int = 0


@dataclass(slots=True)
class Many:
    """One execution of the verb over several pipelines."""

    parts: list[One]
    session: dict[str, Any]
    stagger_s: Stagger
    errors: str | None
    as_json: bool
    run_id: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    num_failures: int = 0
    num_unreachable: int = 0

    async def carry_out(self) -> None:
        """Run all records of all pipelines. Cancelled, it keeps what is finished."""
        from sage.runtime.files import RecordWriter
        from sage.session import Session

        async with Session(**self.session) as session:
            with ExitStack() as stack:
                failures = (
                    None if self.errors is None else stack.enter_context(RecordWriter(self.errors, "jsonl"))
                )
                totals = [part.given.total for part in self.parts]
                total = None if None in totals else sum(count or 0 for count in totals)
                bar = stack.enter_context(Bar("records", total))
                sinks = []
                for part in self.parts:
                    to = part.output or ("-" if not self.as_json else None)
                    writer = None if to is None else stack.enter_context(RecordWriter(to))
                    sinks.append(_Written(self, part, writer, failures))
                given = [(part.pipeline, part.given.records, part.options) for part in self.parts]

                def count(outcome: str) -> None:
                    self.outcomes[outcome] += 1
                    bar.advance(bad=outcome != "done")

                with ticking(bar):
                    results = await session.run_all(
                        given, stagger_s=self.stagger_s, sinks=sinks, on_end=count
                    )
                self.run_id = results[0].run_id

    @property
    def exit_code(self) -> int:
        """0 all done; 3 nothing was, and only because engines could not be reached; else 1."""
        if not self.num_failures:
            return 0
        return 3 if self.num_failures == self.num_unreachable and not self.outcomes["done"] else 1

    def report(self, *, interrupted: bool) -> None:
        """Say what came of it."""
        jobs = {outcome: self.outcomes[outcome] for outcome in ("done", "failed", "rejected", "cancelled")}
        if self.num_failures > MAX_SAID and self.errors is None:
            say(f"… and {self.num_failures - MAX_SAID} more; --errors FILE keeps them all")
        if self.as_json:
            pipelines = [
                {"pipeline": part.pipeline.name, "output": part.output, "written": part.num_written}
                | ({"records": part.records} if part.output is None else {})
                for part in self.parts
            ]
            print_json({"run_id": self.run_id, "jobs": jobs, "pipelines": pipelines})
        counts = ", ".join(
            f"{count} {outcome}" for outcome, count in jobs.items() if count or outcome == "done"
        )
        shown = f"; sage explain {self.run_id}" if self.session["record"] and self.run_id else ""
        say(f"{'interrupted: ' if interrupted else ''}{counts}{shown}")


class _Written:
    """Where the results of one pipeline go, as they finish."""

    def __init__(
        self, many: Many, part: One, writer: RecordWriter | None, failures: RecordWriter | None
    ) -> None:
        self._many = many
        self._part = part
        self._writer = writer
        self._failures = failures

    def put(self, _index: int, result: Record | JobFailure) -> bool:
        """Write a result; never full."""
        from sage.runtime.base import JobFailure

        if isinstance(result, JobFailure):
            self._put_failure(result)
        elif self._writer is None:
            self._part.records.append(plain(result))
        else:
            named = {"pipeline": self._part.pipeline.name, "record": result}
            self._writer.write(result if self._part.output is not None else named)
            self._part.num_written += 1
            self._writer.flush()
        return True

    async def room(self) -> None:
        """Return at once."""

    def _put_failure(self, failure: JobFailure) -> None:
        many = self._many
        many.num_failures += 1
        error = failure.error
        many.num_unreachable += isinstance(error, EngineError) and error.fault == "unreachable"
        if self._failures is not None:
            self._failures.write({"pipeline": self._part.pipeline.name, **failed_as_json(failure)})
            self._failures.flush()
        elif many.num_failures <= MAX_SAID:
            with contextlib.suppress(OSError):
                say(f"failed: {self._part.pipeline.name}: {failure}")
