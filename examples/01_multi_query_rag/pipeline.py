"""Several searches for one question, their passages ranked again, an answer with checked citations.

sage index build examples/01_multi_query_rag/pages --out build/garden.index
sage run examples/01_multi_query_rag/pipeline.py:pipeline --input examples/01_multi_query_rag/input.jsonl --index pages=build/garden.index
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from sage import Passage, Pipeline
from sage.ops import each, embed, generate, register, rerank, search


class Found(TypedDict):
    query: str
    passages: list[Passage]


@register
def with_question(question: str, queries: list[str]) -> list[str]:
    """The question itself is one of the queries, so the others can only add to what is found."""
    return list(dict.fromkeys([question, *(query.strip() for query in queries if query.strip())]))


@register
def without_repeats(found: list[Found]) -> list[Passage]:
    return list({passage.id: passage for one in found for passage in one["passages"]}.values())


@register
def cited(answer: str, passages: list[Passage]) -> list[dict[str, Any]]:
    """The passages that the answer names as [1], [2] …; numbers of no passage are left out."""
    numbers = dict.fromkeys(int(number) for number in re.findall(r"\[(\d{1,3})\]", answer))
    return [
        {"number": number, "id": passages[number - 1].id, "title": passages[number - 1].title}
        for number in numbers
        if 1 <= number <= len(passages)
    ]


QUERIES = {
    "type": "array",
    "items": {"type": "string", "maxLength": 60},
    "minItems": 2,
    "maxItems": 2,
}

one_search = Pipeline(
    "one_search",
    vector=embed("{query}"),
    passages=search("pages", near="vector", text="{query}", k=4),
).outputs("query", "passages")

pipeline = Pipeline(
    "multi_query_rag",
    queries=generate(
        "Write two short search queries that would find the answer to this question: {question}",
        schema=QUERIES,
        max_tokens=96,
    ).default([]),
    all_queries=with_question,
    found=each("all_queries", one_search, item="query"),
    candidates=without_repeats,
    passages=rerank("candidates", by="{question}", k=3),
    answer=generate(
        "{passages}\n\nAnswer the question from the passages above. Put the number of the passage behind what you take "
        "from it, such as [1].\n\nQuestion: {question}\nAnswer:",
        max_tokens=64,
        fit="passages",
    ),
    citations=cited,
).outputs("question", "all_queries", "passages", "answer", "citations")
