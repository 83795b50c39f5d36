"""Orders joined with their payments, and every quarter of an hour summarised by a model.

python examples/stream_join.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sage import Pipeline, stream
from sage.ops import generate
from sage.stream import Stream, count, gather, total

FOLDER = Path(__file__).parent / "streams"


def line(item: str, note: str, amount: float) -> str:
    return f"- {item}, {amount:.2f}{f', {note}' if note else ''}"


def as_list(lines: list[str]) -> str:
    return "\n".join(lines)


def summarise(max_tokens: int) -> Pipeline:
    return Pipeline(
        "summarise",
        list=as_list,
        summary=generate(
            "Paid orders of the last quarter of an hour:\n{list}\n\nSay in one sentence what sells and what to mind.",
            max_tokens=max_tokens,
        ),
    )


def amount_of(payment: dict[str, Any]) -> float:
    return float(payment["amount"])


def paid_orders(folder: Path, max_tokens: int) -> Stream:
    """Orders with a payment within ten minutes, a record for each quarter of an hour."""
    orders = stream.read(folder / "orders.jsonl")
    payments = stream.read(folder / "payments.jsonl")
    paid = (
        orders.key_by("order")
        .join(payments, within="10m", into="payment")
        .map(amount=amount_of)
        .map(line=line)
    )
    windows = paid.window("15m", wait="10m").reduce(orders=count, paid=total("amount"), lines=gather("line"))
    return (
        windows.through(summarise(max_tokens))
        .select("window_start", "orders", "paid", "summary")
        .named("paid orders")
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what summarises")
    said = parser.parse_args(arguments)
    result = paid_orders(FOLDER, said.max_tokens).run(engines={"llm": said.engine})
    for record in result.records:
        print(json.dumps(record))
    for failure in result.failures:
        print(failure, file=sys.stderr)
    return 1 if result.num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
