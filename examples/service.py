"""One session, many pipelines, many tenants: what a service holds.

    python examples/service.py --requests 12 --max-tokens 16

Clients of three tenants call two pipelines at the same time. All calls share one scheduler and one engine. A job that is
not done in time is stopped, at the engine too, and costs nobody else anything.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sage
from sage import Pipeline
from sage.ops import generate, template

summarise = Pipeline(
    "summarise",
    summary=generate("Summarise in one sentence: {text}", max_tokens="{max_tokens}"),
).with_inputs("text", "max_tokens")

reply = Pipeline(
    "reply",
    greeting=template("Hello {name},"),
    body=generate("Write one polite sentence about: {topic}", max_tokens="{max_tokens}"),
    mail=template("{greeting}\n\n{body}"),
).with_inputs("name", "topic", "max_tokens")


@dataclass(frozen=True)
class Service:
    """The pipelines a service offers, and the session that runs them."""

    session: sage.Session
    pipelines: Mapping[str, Pipeline]

    async def call(self, name: str, record: dict[str, Any], *, tenant: str, within_s: float) -> str:
        """Run one record; how it ended, as a status a client would get."""
        pipeline = self.pipelines[name]
        try:
            await self.session.call(pipeline, record, tenant=tenant, deadline_s=within_s, expire=True)
        except sage.InputError:
            return "bad request"
        except sage.Expired:
            return "too late"
        except (sage.EngineError, sage.Rejected):
            return "unavailable"
        except sage.SageError:
            return "failed"
        return "ok"


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[Service]:
    """The service, with its engine open before the first call."""
    async with sage.Session(engines={"llm": engine}, policy="order=job_fifo", max_inflight=32) as session:
        service = Service(session, {pipeline.name: pipeline for pipeline in (summarise, reply)})
        for pipeline in service.pipelines.values():
            await session.ready(pipeline)
        yield service


def requests(count: int, max_tokens: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Tenant, pipeline and record of every request: two of three for ``reply``, and a wrong one at the end."""
    made: list[tuple[str, str, dict[str, Any]]] = []
    for number in range(count):
        tenant = ("acme", "globex", "initech")[number % 3]
        if number % 3:
            record = {"name": f"customer {number}", "topic": "a late parcel", "max_tokens": max_tokens}
            made.append((tenant, "reply", record))
        else:
            record = {"text": "The parcel left on Monday and came on Friday.", "max_tokens": max_tokens}
            made.append((tenant, "summarise", record))
    return [*made, ("acme", "reply", {"naem": "typo"})]


async def run(engine: str, count: int, max_tokens: int, within_s: float) -> Counter[tuple[str, str]]:
    """Send every request at once; how many ended how, by tenant."""
    ended: Counter[tuple[str, str]] = Counter()

    async def client(tenant: str, name: str, record: dict[str, Any]) -> None:
        ended[tenant, await service.call(name, record, tenant=tenant, within_s=within_s)] += 1

    async with serve(engine) as service, asyncio.TaskGroup() as clients:
        for tenant, name, record in requests(count, max_tokens):
            clients.create_task(client(tenant, name, record))
    return ended


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=16, help="longest answer")
    parser.add_argument("--within-s", type=float, default=60.0, help="deadline of every request, in seconds")
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what answers")
    said = parser.parse_args(arguments)
    ended = asyncio.run(run(said.engine, said.requests, said.max_tokens, said.within_s))
    for (tenant, outcome), count in sorted(ended.items()):
        print(f"{tenant:8} {outcome:12} {count}")


if __name__ == "__main__":
    main()
