"""A stream of messages, each sorted by a model, counted per topic and ten minutes; late ones are kept apart.

python examples/stream_classify.py
sage run examples/stream_classify.yaml
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sage import Pipeline, stream
from sage.ops import generate
from sage.stream import Stream, count, gather

MESSAGES = "examples/streams/messages.jsonl"

classify = Pipeline(
    "classify",
    topic=generate(
        "Message: {text}\n\nIs it about billing, delivery or a defect?",
        system="You sort the post of a shop.",
        schema={"enum": ["billing", "delivery", "defect"]},
        max_tokens=8,
    ),
)


def counted(messages: str) -> Stream:
    """Topics per ten minutes, with who wrote. A window stays open for five minutes after its end."""
    counts = (
        stream.read(messages)
        .through(classify)
        .key_by("topic")
        .window("10m", time="at", wait="5m")
        .reduce(count, users=gather("user"))
        .stage("counts")
    )
    return counts.merge(counts.late.select("at", "user", "text")).named("topics")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", default=str(Path(__file__).parent / "streams" / "messages.jsonl"))
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what sorts")
    said = parser.parse_args(arguments)
    result = counted(said.messages).run(engines={"llm": said.engine})
    for record in result.records:
        print(json.dumps(record))
    counts = result.counts["counts"]
    print(f"{counts.taken} messages, {counts.late} late; sage explain {result.run_id}", file=sys.stderr)
    return 1 if result.num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
