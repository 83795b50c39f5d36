"""Tokens as they come, from two steps that write at the same time.

python examples/streaming.py "heap" --max-tokens 48
"""

from __future__ import annotations

import argparse
import asyncio

import sage
from sage import Pipeline, RecordDone, StepDone, StepStarted, Token
from sage.ops import generate, template

explain = Pipeline(
    "explain",
    what=generate("What is a {thing}? Answer in one sentence.", max_tokens="{max_tokens}"),
    use=generate("When does one use a {thing}? Answer in one sentence.", max_tokens="{max_tokens}"),
    both=template("{what}\n{use}"),
)


async def show(thing: str, max_tokens: int, engine: str) -> str:
    """Print every event as it happens; the finished text."""
    text = ""
    async with sage.Session(engines={"llm": engine}) as session:
        async for event in session.events(explain, {"thing": thing, "max_tokens": max_tokens}):
            match event:
                case StepStarted(step):
                    print(f"{step}: started")
                case Token(step, piece):
                    print(f"{step}: {piece!r}")
                case StepDone(step, value):
                    print(f"{step}: done, {len(value)} characters")
                case RecordDone(record):
                    text = record["both"]
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("thing")
    parser.add_argument("--max-tokens", type=int, default=48, help="longest answer of each step")
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what answers")
    said = parser.parse_args(arguments)
    print(f"\n{asyncio.run(show(said.thing, said.max_tokens, said.engine))}")


if __name__ == "__main__":
    main()
