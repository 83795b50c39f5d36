"""What ways of selecting tools learn from other tasks."""

from __future__ import annotations

import pytest

from sage.bench.agent_data.sets import Task
from sage.bench.agent_fit import Scored, fit_selection
from sage.index.tool_index import ToolDocument, ToolIndex
from sage.index.tool_words import clauses

HOTELS = [ToolDocument(f"bookHotel{place}", f"book a hotel room in {place}") for place in "ABCDEFGH"]
FLIGHTS = [
    ToolDocument(f"findFlight{place}", f"find a flight to {place} by some airline") for place in "ABCDEFGH"
]
INDEX = ToolIndex([*HOTELS, *FLIGHTS])
BOTH = "Please book a room in a hotel. Then find me a flight."


@pytest.mark.parametrize(
    ("gold", "better"), [(("findFlightA", "bookHotelA"), True), (("bookHotelA", "bookHotelE"), False)]
)
def test_clauses_take_turns_where_that_finds_more_of_the_right_tools(
    gold: tuple[str, ...], better: bool
) -> None:
    tasks = [Task(id=str(number), query=BOTH, gold=gold) for number in range(3)]
    scored = [Scored(task, clauses(task.query), None) for task in tasks]
    assert fit_selection("hybrid", ("words", "turns"), INDEX, scored)["turns"] is better
