"""A question goes where it belongs; where the first engine cannot answer, a second one does.

sage run examples/05_router/pipeline.py --input examples/05_router/input.jsonl --engine backup=llama:smollm2-135m-instruct
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import generate, route, template

pipeline = Pipeline(
    "router",
    intent=generate(
        "Which department answers this? Say billing, shipping or other.\n\n{text}\n\nDepartment:",
        schema={"enum": ["billing", "shipping", "other"]},
        max_tokens=12,
    ).fallback("backup"),
    answer=route(
        "{intent}",
        billing=generate("You work in billing. Answer in one sentence: {text}", max_tokens=40).fallback(
            "backup"
        ),
        shipping=generate("You work in shipping. Answer in one sentence: {text}", max_tokens=40).fallback(
            "backup"
        ),
        default=template("Thank you for writing. A colleague will read this: {text}"),
    ),
).outputs("text", "intent", "answer")
