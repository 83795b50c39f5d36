"""Requests to calibrate by: a load that rises, of prompts and answers of many lengths, sent to a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from sage.bench.arrivals import Arrivals, draw
from sage.bench.calibrate import Served, served_in
from sage.bench.simulation_spec import filler
from sage.clock import Clock, monotonic
from sage.engines.emulated_profile import answer_lengths
from sage.errors import EngineError, SageError
from sage.ops import generate
from sage.pipeline import Pipeline
from sage.runtime.runs import load_run
from sage.runtime.simulated import open_loop
from sage.session import Session
from sage.settings import Settings

__all__ = ["measure"]

PIPELINE = Pipeline("calibrate", answer=generate("{prompt}", max_tokens="{tokens}"))


async def measure(
    address: str,
    settings: Settings,
    *,
    requests: int,
    rate: float,
    prompt_tokens: str = "lognormal(200,0.8)",
    output_tokens: str = "lognormal(60,0.7)",
    seed: int = 0,
    clock: Clock = monotonic,
    on_end: Callable[[], None] | None = None,
) -> tuple[list[Served], str]:
    """Send requests to an engine, first seldom, then up to ``rate`` a second; what came back, and the run's id.

    Args:
        address: of the engine.
        settings: where the run is recorded.
        requests: how many.
        rate: a second, at the end; it begins with a tenth of it.
        prompt_tokens: lengths of prompts, see ``answer_lengths``; at 4 characters a token.
        output_tokens: most tokens of answers, in the same form.
        seed: of arrivals and lengths.
        clock: of the event loop.
        on_end: told of each request that ended.

    Raises:
        EngineError: none was answered.
    """
    arrivals = Arrivals(process="ramp", rate=rate / 10, to_rate=rate, jobs=requests)
    prompt, output = answer_lengths(prompt_tokens, seed), answer_lengths(output_tokens, seed)

    def coming() -> Iterator[tuple[float, dict[str, Any]]]:
        for number, at_s in enumerate(draw(arrivals, seed).times):
            key = f"request {number} of {requests}:"
            yield (
                at_s,
                {"prompt": filler(key, prompt(f"{key} in", 4096)), "tokens": output(f"{key} out", 4096)},
            )

    errors: list[SageError] = []
    recorded = replace(settings, record=True, policy="fifo", max_inflight=requests)
    async with Session(engines={"llm": address}, settings=recorded, seed=seed, clock=clock) as session:
        await session.ready(PIPELINE)
        opened = await session.engine("llm")

        async def carry(record: dict[str, Any]) -> None:
            try:
                await session.call(PIPELINE, record)
            except SageError as error:
                errors.append(error)
            finally:
                if on_end is not None:
                    on_end()

        await open_loop(coming(), carry)
        address, run_id = opened.info.address, session.run_id
    assert run_id is not None, "a session that records has a run"
    run = load_run(recorded, run_id)
    served = served_in(run.events())
    if not served:
        message = f"engine {address}: none of {requests} requests was answered: {errors[0] if errors else 'no reason'}"
        raise EngineError(message, fault="failed")
    return served, run.manifest.run_id
