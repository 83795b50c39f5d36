"""Pipelines that do again what a log tells: the same graph, whose calls take as long as they did.

They are made of ready-made operators, so that driver, scheduler and policies treat them like any other. A call's
prompt names it, and is as long as it was; the engine of a replay looks up what became of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sage.bench.replay_log import Chain, Made, Recorded, RecordedJob
from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Piece,
    Reply,
    Usage,
)
from sage.errors import EngineError
from sage.events import PipelineSeen
from sage.graph.shape import is_cpu
from sage.graph.step import Step
from sage.ops import embed, generate, step
from sage.ops.flow import each, loop, route
from sage.pipeline import Pipeline
from sage.runtime.trail import pattern

__all__ = ["ProfiledEngine", "ReplayEngine", "Replayed", "pipelines_of"]

CHARS_PER_TOKEN = 4
DEFAULT_ATTEMPTS = 3


def pool_of(pool: str) -> str:
    """What a pool is called in a replay: those of functions are special, and become pools of engines."""
    return f"replayed {pool}" if is_cpu(pool) else pool


@dataclass(frozen=True, slots=True)
class Replayed:
    """The pipelines of a run, and the record of each of its jobs."""

    pipelines: Mapping[str, Pipeline]
    calls: Mapping[str, Made]  # key of a call -> what became of it
    keys: Mapping[tuple[int, str], tuple[tuple[str, ...], ...]]  # job and step -> keys of its calls, by chain
    direct: frozenset[tuple[str, str]]  # pipeline and step that makes one call in every job
    most_tokens: Mapping[str, int]  # pattern of a step -> longest answer

    def record(self, job: RecordedJob) -> dict[str, Any]:
        """What goes into a job's pipeline."""
        record: dict[str, Any] = {
            "replayed_job": job.number,
            "replayed_tenant": job.tenant,
            "replayed_priority": job.priority,
            "replayed_deadline_s": job.deadline_s,
        }
        for name in job.steps:
            if (job.pipeline, name) in self.direct:
                ((key,),) = self.keys[job.number, name]
                record[_prompt_field(name)] = prompt(key, self.calls[key])
        return record


def _prompt_field(name: str) -> str:
    return f"replayed_prompt_{name}"


def prompt(key: str, call: Made) -> str:
    """A prompt that names a call and is as long as its prompt was."""
    return f"{key} ".ljust(CHARS_PER_TOKEN * call.prompt_tokens)


def pipelines_of(recorded: Recorded) -> Replayed:
    """The pipelines of a run, as a replay runs them."""
    keys: dict[tuple[int, str], tuple[tuple[str, ...], ...]] = {}
    calls: dict[str, Made] = {}
    most: dict[str, int] = {}
    number = itertools.count()
    for job in recorded.jobs:
        for name, found in job.steps.items():
            named = []
            for chain in found.chains:
                own = [f"{next(number)}" for _ in chain]
                calls.update(zip(own, chain, strict=True))
                named.append(tuple(own))
                for call in chain:
                    kind = pattern(call.path)
                    most[kind] = max(most.get(kind, 1), call.completion_tokens)
            keys[job.number, name] = tuple(named)
    direct = _direct(recorded.jobs)
    builder = _Builder(recorded, calls, keys, direct, most)
    pipelines = {name: builder.pipeline(plan) for name, plan in recorded.plans.items()}
    return Replayed(pipelines, calls, keys, direct, most)


def _direct(jobs: Sequence[RecordedJob]) -> frozenset[tuple[str, str]]:
    """Steps that made one call of their own in every job, at once."""
    seen: dict[tuple[str, str], bool] = {}
    for job in jobs:
        for name, found in job.steps.items():
            one = len(found.chains) == 1 and len(found.chains[0]) == 1
            is_own = one and found.chains[0][0].path == name and found.chains[0][0].after_s < 0.001
            seen[job.pipeline, name] = seen.get((job.pipeline, name), True) and is_own
    return frozenset(key for key, is_direct in seen.items() if is_direct)


class _Builder:
    def __init__(
        self,
        recorded: Recorded,
        calls: Mapping[str, Made],
        keys: Mapping[tuple[int, str], tuple[tuple[str, ...], ...]],
        direct: frozenset[tuple[str, str]],
        most: Mapping[str, int],
    ) -> None:
        self.jobs = {job.number: job for job in recorded.jobs}
        self.calls = calls
        self.keys = keys
        self.direct = direct
        self.most = most

    def pipeline(self, plan: PipelineSeen) -> Pipeline:
        steps: dict[str, Step] = {}
        for name, operator, after in zip(plan.steps, plan.operators, plan.after, strict=True):
            chains = self._chains(plan.pipeline, name)
            if (plan.pipeline, name) in self.direct:
                steps[name] = self._call(name, operator, chains[0][0], after)
            elif chains:
                steps[f"replayed_{name}"] = self._begun(name, after)
                steps[name] = each(f"replayed_{name}", self._body(plan.pipeline, name, chains), item="chain")
            else:
                steps[name] = self._own(name, after)
        return Pipeline(plan.pipeline, **steps)

    def _chains(self, pipeline: str, name: str) -> list[Chain]:
        own = [
            job.steps[name] for job in self.jobs.values() if job.pipeline == pipeline and name in job.steps
        ]
        return [chain for found in own for chain in found.chains]

    def _call(self, name: str, operator: str, call: Made, after: Sequence[str]) -> Step:
        text = "{" + _prompt_field(name) + "}" + "".join("{" + other + "}" for other in after)
        if operator == "embed":
            return embed(text, engine=pool_of(call.pool))
        return self._attempts(generate(text, engine=pool_of(call.pool), max_tokens=self.most[name]), [call])

    def _attempts(self, made: Step, calls: Sequence[Made]) -> Step:
        most = max(len(call.attempts) for call in calls)
        return made if most <= DEFAULT_ATTEMPTS else made.retry(most)

    def _own(self, name: str, after: Sequence[str]) -> Step:
        """A step without calls: it takes its time."""

        async def own(replayed_job: int, **_inputs: Any) -> str:
            await self._pass(replayed_job, name)
            return ""

        return step(own, **_inputs(after))

    def _begun(self, name: str, after: Sequence[str]) -> Step:
        """The chains of calls of a step, once its inputs are there."""

        async def begun(replayed_job: int, **_inputs: Any) -> list[tuple[str, ...]]:
            await self._pass(replayed_job, name)
            return list(self.keys.get((replayed_job, name), ()))

        return step(begun, **_inputs(after))

    async def _pass(self, number: int, name: str) -> None:
        job = self.jobs[number]
        own_s = job.steps[name].own_s if name in job.steps else 0.0
        if own_s > 0:
            await asyncio.sleep(own_s)
        if job.fails_in == name:
            raise RuntimeError("it failed in the recorded run")

    def _body(self, pipeline: str, name: str, chains: Sequence[Chain]) -> Step:
        """What one chain does: its calls, one after the other."""
        calls = [call for chain in chains for call in chain]
        kinds = {(pattern(call.path), call.pool): str(n) for n, call in enumerate(calls)}

        async def text(chain: Sequence[str]) -> str:
            call = self.calls[chain[0]]
            if call.after_s > 0:
                await asyncio.sleep(call.after_s)
            return prompt(chain[0], call)

        def kind(chain: Sequence[str]) -> str:
            call = self.calls[chain[0]]
            return kinds[pattern(call.path), call.pool]

        branches = {
            label: self._attempts(
                generate("{text}", engine=pool_of(pool), max_tokens=self.most[path]),
                [call for call in calls if (pattern(call.path), call.pool) == (path, pool)],
            )
            for (path, pool), label in kinds.items()
        }
        only = next(iter(branches.values()))
        turn = Pipeline(
            f"{pipeline}.{name}",
            text=text,
            kind=kind,
            call=only if len(branches) == 1 else route("{kind}", branches),
            rest=lambda chain, call: chain[1:],  # noqa: ARG005 - it waits for the call
            over=lambda rest: not rest,
        )
        return loop(turn, until="over", carry={"chain": "rest"}, max_steps=max(map(len, chains)))


def _inputs(after: Sequence[str]) -> dict[str, Any]:
    return {f"input_{number}": "{" + name + "}" for number, name in enumerate(after)}


class ReplayEngine:
    """An endpoint that takes as long over each call as a log says it took.

    Args:
        name: of the endpoint.
        limit: calls at once it is worth sending.
        calls: key of a call -> what became of it.
        done: how many attempts of each were made; shared by all endpoints of a replay.
    """

    def __init__(self, name: str, limit: int, calls: Mapping[str, Made], done: dict[str, int]) -> None:
        self._calls = calls
        self._done = done
        self.info = EngineInfo(
            address=name,
            model="replayed",
            can=frozenset({"generate", "embed"}),
            limit=limit,
            dimension=1,
            fingerprint="replayed",
        )

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """An empty answer, after the time the call took."""
        key = request.messages[-1].content.partition(" ")[0]
        call, service_s = await self._answer(key)
        emit(Piece("", "text"))
        await asyncio.sleep(service_s)
        usage = Usage(call.prompt_tokens, call.completion_tokens, call.cached_tokens)
        return Reply("", usage, "stop")

    async def _answer(self, key: str) -> tuple[Made, float]:
        """What became of a call, after the time to its first token; and the time that is left."""
        call = self._calls[key]
        number = self._done.get(key, 0)
        self._done[key] = number + 1
        attempt = call.attempts[min(number, len(call.attempts) - 1)]
        if attempt.fault is not None:
            await asyncio.sleep(attempt.service_s)
            raise EngineError(f"{self.info.address}: as in the recorded run", fault=attempt.fault)
        first_s = min(attempt.first_s or attempt.service_s, attempt.service_s)
        await asyncio.sleep(first_s)
        return call, attempt.service_s - first_s

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Rows of nothing, after the time that the longest of the calls took that travel together."""
        import numpy as np

        calls = [self._calls[text.partition(" ")[0]] for text in request.texts]
        await asyncio.sleep(max(call.attempts[-1].service_s for call in calls))
        rows = np.ones((len(calls), 1), dtype=np.float32)
        return EmbedReply(rows, Usage(sum(call.prompt_tokens for call in calls)))


class ProfiledEngine:
    """An emulated endpoint whose answers are as long as a log says they were.

    Args:
        engine: gives the times.
        calls: key of a call -> what became of it.
    """

    def __init__(self, engine: Engine, calls: Mapping[str, Made]) -> None:
        self._engine = engine
        self._calls = calls
        self.info = engine.info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """An empty answer of the right length; filler would be read by the steps that follow."""
        call = self._calls[request.messages[-1].content.partition(" ")[0]]
        asked = msgspec.structs.replace(request, max_tokens=max(1, call.completion_tokens))
        reply = await self._engine.generate(asked, emit)
        return msgspec.structs.replace(reply, text="")

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Rows, in the time the profile gives."""
        return await self._engine.embed(request)
