"""Answers, marked by a model and by a measure that needs none, so that the judge can be judged as well.

sage run examples/07_judge/pipeline.py --input examples/07_judge/input.jsonl --engine judge=llama:smollm2-135m-instruct
"""

from __future__ import annotations

import re

from sage import Pipeline
from sage.ops import generate, register, template

VERDICT = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 100},
        "correct": {"type": "boolean"},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["reason", "correct", "score"],
}


@register
def recall(answer: str, reference: str) -> float:
    """The share of the reference's words that the answer has."""
    said, wanted = (set(re.findall(r"\w+", text.lower())) for text in (answer, reference))
    return round(len(said & wanted) / max(1, len(wanted)), 3)


pipeline = Pipeline(
    "judge",
    answer=generate("Answer in a few words: {question}", max_tokens=24),
    case=template("Question: {question}\nRight answer: {reference}\nAnswer given: {answer}"),
    verdict=generate(
        "{case}\n\nSay why the answer given is right or wrong, whether it is correct, and mark it from 1 to 5.",
        system="You mark exams strictly.",
        schema=VERDICT,
        max_tokens=96,
        engine="judge",
    ).retry(2),
    recall=recall,
).outputs("question", "answer", "verdict", "recall")
