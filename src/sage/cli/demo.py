"""``sage demo``: questions about Python's standard library, answered on this machine by the embedded models."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage import Pipeline
from sage.cli.demo_prompt import OF_TEXTS, conversation
from sage.cli.demo_questions import QUESTIONS, Question, names_one_of
from sage.cli.output import print_json, say, shown_seconds
from sage.clock import monotonic
from sage.errors import EngineError, InputError, Rejected, SageError
from sage.ops import embed, generate, search, template

if TYPE_CHECKING:
    from sage.graph.values import Passage
    from sage.index import Index
    from sage.session import Session
    from sage.settings import Settings

__all__ = ["app"]

app = typer.Typer(add_completion=False)

rag = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector", k=4),
    prompt=conversation,
    answer=generate(messages="prompt", max_tokens=48, stop="\n\n"),
)

#: For texts of the user's, whose passages are no functions.
rag_of_texts = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector", text="{question}", k=4),
    prompt=template(OF_TEXTS),
    answer=generate("{prompt}", max_tokens=64, stop="\n"),
)

BAR_CHARS = 24  # of the timeline


@app.command()
def demo(
    ask: Annotated[
        list[str] | None,
        typer.Option(metavar="QUESTION", help="Ask this instead of the dozen; may be said again."),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Ask about the text and Markdown files in a folder.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL=ADDRESS", help="What answers for llm or embedder instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Answer questions about Python's standard library, from its documentation, on this machine.

    The first run downloads two small models and embeds the documentation; later runs start at once. Ends
    with 1 if some questions failed, 3 if no engine could be reached, 130 if it was interrupted: what was
    answered until then is kept.
    """
    from sage.cli.demo_index import pull_missing
    from sage.settings import Settings

    if corpus is not None and not ask:
        raise InputError("--corpus needs a question; say it with --ask")
    settings = Settings.load()
    engines = _engines(engine or [], settings)
    pull_missing((address for pool in engines.values() for address in pool), settings)
    index = _index(corpus, engines["embedder"][0], settings)
    questions = [Question(text, frozenset()) for text in ask] if ask else list(QUESTIONS)
    show = Show(index, questions, rag if corpus is None else rag_of_texts, as_json=as_json)
    interrupted = False
    try:
        asyncio.run(show.carry_out(engines, settings))
    except KeyboardInterrupt:
        interrupted = True
    show.report(settings, interrupted=interrupted)
    raise typer.Exit(130 if interrupted else show.exit_code)


@dataclass(slots=True)
class Answered:
    """One question's record as it grows, and when its steps began and ended."""

    question: Question
    answer: str = ""
    passages: list[Passage] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)  # step -> seconds
    step_ms: dict[str, float] = field(default_factory=dict)
    first_ms: float | None = None  # from the beginning of the answer to its first piece
    error: SageError | None = None

    @property
    def named(self) -> bool | None:
        """Whether the answer names an accepted function; None where nobody said which are."""
        accepted = self.question.accepted
        return names_one_of(self.answer, accepted) if accepted else None

    def as_json(self) -> dict[str, Any]:
        """The record as ``--json`` prints it."""
        found = [{"id": passage.id, "score": passage.score} for passage in self.passages]
        extra: dict[str, Any] = {} if self.named is None else {"named": self.named}
        if self.error is not None:
            extra["error"] = str(self.error)
        return {
            "question": self.question.text,
            "answer": self.answer,
            "passages": found,
            "step_ms": {step: round(ms, 3) for step, ms in self.step_ms.items()},
            **extra,
        }


@dataclass(slots=True)
class Show:
    """One execution of the verb: the questions, and what came of them so far."""

    index: Index
    questions: list[Question]
    pipeline: Pipeline
    as_json: bool
    answered: list[Answered] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    run_id: str | None = None
    began: float = field(default_factory=monotonic)

    async def carry_out(self, engines: Mapping[str, tuple[str, ...]], settings: Settings) -> None:
        """Answer every question. Cancelled, it keeps what is answered."""
        from sage.session import Session

        async with Session(engines=engines, indexes={"docs": self.index}, settings=settings) as session:
            await session.ready(self.pipeline)
            say(f"ready in {shown_seconds(monotonic() - self.began)}: {len(self.index):,} passages")
            try:
                for question in self.questions:
                    await self._answer(session, question)
            finally:
                self.run_id = session.run_id

    async def _answer(self, session: Session, question: Question) -> None:
        answered = Answered(question)
        self.print(f"\n{len(self.answered) + 1}/{len(self.questions)}  {question.text}\n      ", end="")
        try:
            await self._listen(session, answered)
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            self.print()
            raise
        except SageError as error:
            answered.error = error
            self.outcomes["rejected" if isinstance(error, Rejected) else "failed"] += 1
            say(f"failed: {error}")
        else:
            self.outcomes["done"] += 1
            self._print_details(answered)
        self.answered.append(answered)

    async def _listen(self, session: Session, answered: Answered) -> None:
        """Follow one job from its first step to its record, showing the answer as it comes."""
        from sage import RecordDone, StepDone, StepStarted, Token

        async for event in session.events(self.pipeline, {"question": answered.question.text}):
            now = monotonic()
            match event:
                case StepStarted(step):
                    answered.began[step] = now
                case Token(step, text):
                    if answered.first_ms is None:
                        answered.first_ms = (now - answered.began[step]) * 1000
                    self.print(text, end="")
                case StepDone(step, _, took_s):
                    answered.step_ms[step] = took_s * 1000
                case RecordDone(record):
                    answered.answer = record["answer"].strip()
                    answered.passages = record["passages"]

    def _print_details(self, answered: Answered) -> None:
        found = ", ".join(f"{passage.id} {passage.score:.3f}" for passage in answered.passages)
        self.print(f"\n      from {found}")
        total_ms = sum(answered.step_ms.values()) or 1.0
        for step, ms in answered.step_ms.items():
            bar = "━" * round(BAR_CHARS * ms / total_ms)
            first = ""
            if step == "answer" and answered.first_ms is not None:
                first = f", first token after {shown_seconds(answered.first_ms / 1000)}"
            self.print(f"      {step:<9} {bar:<{BAR_CHARS}} {shown_seconds(ms / 1000)}{first}")

    def print(self, text: str = "", end: str = "\n") -> None:
        """Text for people, at once; nothing where a JSON object is wanted."""
        if not self.as_json:
            print(text, end=end, flush=True)

    @property
    def exit_code(self) -> int:
        """0 all answered; 3 nothing was, because no engine could be reached; else 1."""
        errors = [answered.error for answered in self.answered if answered.error is not None]
        if not errors:
            return 0
        unreachable = [e for e in errors if isinstance(e, EngineError) and e.fault == "unreachable"]
        return 3 if len(unreachable) == len(self.answered) else 1

    def report(self, settings: Settings, *, interrupted: bool) -> None:
        """Say what came of all of it."""
        jobs = {outcome: self.outcomes[outcome] for outcome in ("done", "failed", "rejected", "cancelled")}
        if self.as_json:
            records = [answered.as_json() for answered in self.answered]
            metrics = _metrics(settings, self.run_id)
            print_json({"run_id": self.run_id or "", "jobs": jobs, "records": records, "metrics": metrics})
        self._print_totals(jobs)
        if interrupted:
            say("interrupted: " + ", ".join(f"{count} {outcome}" for outcome, count in jobs.items() if count))

    def _print_totals(self, jobs: Mapping[str, int]) -> None:
        done = [answered for answered in self.answered if answered.error is None]
        if not done:
            return
        answering_s = sum(sum(answered.step_ms.values()) for answered in done) / 1000
        self.print(f"\n{jobs['done']} answered, {shown_seconds(answering_s / len(done))} each on average")
        verdicts = [answered.named for answered in self.answered if answered.named is not None]
        if verdicts:
            self.print(f"named the right function {sum(verdicts)} of {len(verdicts)}")
        if self.run_id is not None:
            self.print(f"where the time went: sage explain {self.run_id}")


def _index(corpus: Path | None, embedder: str, settings: Settings) -> Index:
    from sage.cli.demo_index import kept_index
    from sage.index import read_corpus
    from sage.index.stdlib import stdlib_passages

    if corpus is not None:
        return kept_index("corpus", read_corpus(corpus).items, embedder, settings)
    name = f"python-{platform.python_version()}"
    return kept_index(name, stdlib_passages(), embedder, settings)


def _engines(said: list[str], settings: Settings) -> dict[str, tuple[str, ...]]:
    """The addresses of the two pools: as said here, else in the settings, else the embedded models."""
    from sage.runtime.endpoints import DEFAULT_ENGINES

    engines = {pool: _several(address) for pool, address in {**DEFAULT_ENGINES, **settings.engines}.items()}
    chosen: dict[str, tuple[str, ...]] = {}
    for text in said:
        pool, equals, address = text.partition("=")
        if not equals or not address or pool not in DEFAULT_ENGINES:
            raise InputError(
                f"--engine {text!r}: expected {' or '.join(f'{p}=ADDRESS' for p in DEFAULT_ENGINES)}"
            )
        chosen[pool] = (*chosen.get(pool, ()), address)
    return {**{pool: engines[pool] for pool in DEFAULT_ENGINES}, **chosen}


def _several(address: str | tuple[str, ...]) -> tuple[str, ...]:
    return address if isinstance(address, tuple) else (address,)


def _metrics(settings: Settings, run_id: str | None) -> Any:
    """The figures of the run's log; nothing if it was not recorded."""
    from sage.runtime.runs import load_run
    from sage.runtime.summary import summarize

    if run_id is None or not settings.record:
        return {}
    return summarize(load_run(settings, run_id).events())
