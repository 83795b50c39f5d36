"""A question that only makes sense in its conversation is rewritten, then searched by meaning and by words.

sage index build examples/09_hybrid_search/pages --out build/manual.index
sage run examples/09_hybrid_search/pipeline.py --input examples/09_hybrid_search/input.jsonl --index pages=build/manual.index
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import embed, generate, search, template

pipeline = Pipeline(
    "hybrid_search",
    rewritten=generate(
        "Conversation:\n{conversation}\n\nLast question: {question}\n\nRewrite the last question so that it can be "
        "understood without the conversation. Rewritten question:",
        max_tokens=32,
        stop="\n",
    )
    .timeout(s=20)
    .fallback(template("{question}")),
    query=template("{question} {rewritten}"),
    vector=embed("{query}"),
    passages=search("pages", near="vector", text="{query}", k=2),
    answer=generate(
        "{passages}\n\nAnswer from the passages above, in one sentence.\n\nQuestion: {question}\nAnswer:",
        max_tokens=48,
        fit="passages",
    ),
).outputs("question", "rewritten", "passages", "answer")
