"""Many short texts, each sorted and read out as JSON; what cannot be read is marked and does not stop the rest.

sage run examples/10_classification/pipeline.py --input examples/10_classification/input.jsonl --output build/tickets.jsonl
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import generate

TICKET = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["billing", "delivery", "defect", "praise"]},
        "urgent": {"type": "boolean"},
        "product": {"type": "string", "maxLength": 30},
    },
    "required": ["topic", "urgent", "product"],
}

pipeline = (
    Pipeline(
        "classification",
        ticket=generate(
            "Text: {text}\n\nGive its topic (billing, delivery, defect or praise), whether it is urgent, and the product.",
            system="You sort the post of a shop.",
            schema=TICKET,
            max_tokens=64,
        )
        .retry(2)
        .default(None),
    )
    .with_inputs("id", "text")
    .outputs("id", "ticket")
)
