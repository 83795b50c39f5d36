"""A text is translated sentence by sentence while it is still being written.

sage run examples/08_translation/pipeline.py --input examples/08_translation/input.jsonl

``sentences`` gives each sentence as soon as the next begins, and ``each`` starts on it at once; so the translation of
the first is under way long before the last is written. ``sage explain`` shows them side by side.
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import each, generate, sentences

pipeline = Pipeline(
    "translation",
    story=generate("Tell a very short story about {topic}, in three short sentences.", max_tokens=72),
    parts=sentences("story"),
    translated=each(
        "parts",
        generate(
            "Translate into {language}: {sentence}",
            max_tokens=32,
            system="You translate. You say nothing else.",
        ),
        item="sentence",
        max_concurrency=2,
    ),
).outputs("parts", "translated")
