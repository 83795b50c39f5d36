"""Two models answer at the same time; the first to finish is taken, the other is stopped at its engine.

sage run examples/06_race/pipeline.py --input examples/06_race/input.jsonl --engine quick=llama:smollm2-135m-instruct

Worth its cost where the time that an engine takes varies much, or where one may be down.
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import first_of, generate

PROMPT = "Answer in one sentence: {question}"

pipeline = Pipeline(
    "race", answer=first_of(generate(PROMPT, max_tokens=40), generate(PROMPT, max_tokens=24, engine="quick"))
)
