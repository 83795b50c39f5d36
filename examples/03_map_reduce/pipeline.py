"""A summary of a text that is longer than a prompt may be: part by part at the same time, then of the parts.

sage run examples/03_map_reduce/pipeline.py --input examples/03_map_reduce/input.jsonl
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import each, generate, register

PART_WORDS = 120


@register
def in_parts(document: str) -> list[str]:
    """Whole paragraphs, put together as long as they stay below so many words."""
    parts: list[str] = []
    for paragraph in filter(str.strip, document.split("\n\n")):
        joined = f"{parts[-1]}\n\n{paragraph}" if parts else paragraph
        if parts and len(joined.split()) <= PART_WORDS:
            parts[-1] = joined
        else:
            parts.append(paragraph)
    return parts


pipeline = Pipeline(
    "map_reduce",
    parts=in_parts,
    notes=each(
        "parts",
        generate("Say in one sentence what this text is about.\n\n{part}", max_tokens=40),
        item="part",
        max_concurrency=4,
    ),
    summary=generate("Join these notes into one short summary.\n\n{notes}\n\nSummary:", max_tokens=64),
).outputs("notes", "summary")
