"""Measurements that are ready to run: each a module here and a command of ``sage bench``."""

from __future__ import annotations

from dataclasses import dataclass

from sage.registry import Registry

__all__ = ["SUITES", "Suite"]


@dataclass(frozen=True, slots=True)
class Suite:
    """One measurement, as ``sage bench list`` shows it."""

    measures: str
    needs: str


SUITES: Registry[Suite] = Registry("suite")
SUITES["retrieval"] = Suite(
    measures="whether search finds the right passage, and whether the model then answers rightly",
    needs="a folder with passages.jsonl and questions.jsonl",
)
