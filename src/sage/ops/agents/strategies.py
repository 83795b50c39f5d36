"""What strategies have in common: what they are given, how they become one step, and how tools are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.errors import InputError
from sage.graph.body import Body
from sage.graph.fields import Argument, Constant, text
from sage.graph.fields import field as field_argument
from sage.graph.form import Given
from sage.graph.plan import compile_plan
from sage.graph.step import Step
from sage.ops.agents.calling import by_box_name, given_box
from sage.ops.agents.tools import Toolbox
from sage.ops.base import OPERATORS, Operator
from sage.ops.flow_run import IN, bind_nested
from sage.registry import Registry

__all__ = ["Choice", "Strategy", "meant", "menu", "offer", "strategic"]

MOST_SHOWN = 160  # characters of a tool's description in a menu


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a strategy is made from.

    Attributes:
        tools: the box.
        k: how many tools are wanted, at most.
        among: whether the record has a field ``among`` with the names to choose from.
        shortlist: how many a model is shown after retrieval.
        engine, embedder: the pools.
        fitted: what was learnt from other items; each strategy says what it takes.
    """

    tools: Toolbox
    k: int = 5
    among: bool = False
    shortlist: int = 10
    engine: str = "llm"
    embedder: str = "embedder"
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, name: str, default: Any) -> Any:
        """One thing that was learnt, or what stands for it where nothing was."""
        return self.fitted.get(name, default)


#: The steps of a strategy by field; they read ``query`` and, if there is one, ``among``. The last is its value.
Steps = Mapping[str, Step]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of doing it, ready to become a step."""

    name: str
    about: str  # one line
    steps: Callable[[Choice], Steps]
    uses: frozenset[str] = frozenset()  # "llm", "embedder"
    fits: tuple[str, ...] = ()  # what it takes from ``Choice.fitted``


def strategic(
    operator: str,
    strategies: Registry[Strategy],
    query: str,
    choice: Choice,
    by: str,
    among: str | None,
) -> Step:
    """A strategy as one step, its own steps inside.

    Raises:
        InputError: an unknown strategy, or something fitted that it does not take.
    """
    strategy = strategies[by]
    for name in choice.fitted:
        if name not in strategy.fits:
            have = ", ".join(map(repr, strategy.fits)) or "nothing"
            raise InputError(f"{operator}: {by!r} takes nothing fitted called {name!r}; it takes {have}")
    steps = strategy.steps(choice)
    arguments: dict[str, Argument] = {
        IN + "query": text(query),
        "tools": Constant(choice.tools),
        "by": Constant(by),
    }
    if among is not None:
        arguments[IN + "among"] = field_argument(among)
    standard = Choice(tools=choice.tools)
    for name in ("k", "shortlist", "engine", "embedder"):
        if (value := getattr(choice, name)) != getattr(standard, name):
            arguments[name] = Constant(value)
    arguments |= {f"fitted.{name}": Constant(value) for name, value in choice.fitted.items()}
    *_, last = steps
    body = Body(compile_plan(by, steps, declared_inputs=("query", *(("among",) if among else ()))), last)
    return Step(
        operator=operator,
        arguments=arguments,
        gives=body.gives,
        expects={IN + "among": list},
        bodies={"body": body},
    )


def offer(name: str, make: Callable[..., Step]) -> None:
    """Let pipelines in YAML use an operator whose steps are strategies; ``make`` takes its options."""

    def given(made: Step) -> Mapping[str, Given]:
        return {key.removeprefix(IN): argument for key, argument in made.arguments.items()} | {
            "tools": given_box(made)
        }

    OPERATORS[name] = Operator(name, by_box_name(make), "query", bind_nested, given)


def menu(tools: Toolbox, names: Sequence[str] | None = None, *, parameters: bool = False) -> str:
    """Tools as a model is shown them, a line each; those it may not use, and names of none, are left out.

    Args:
        tools: the box.
        names: which; None: every allowed one.
        parameters: with the names of their parameters, optional ones marked.
    """
    chosen = [name for name in (tools if names is None else names) if name in tools and name in tools.allowed]
    return "\n".join(_line(tools, name, parameters) for name in chosen)


def _line(tools: Toolbox, name: str, parameters: bool) -> str:
    about = " ".join(tools[name].description.split())
    shown = about if len(about) <= MOST_SHOWN else about[:MOST_SHOWN] + "…"
    if not parameters:
        return f"- {name}: {shown}"
    required = tools[name].parameters.get("required", ())
    known = tools[name].parameters.get("properties", {})
    listed = ", ".join(key if key in required else f"{key}?" for key in known)
    return f"- {name}({listed}): {shown}"


def meant(said: str, known: Iterable[str]) -> str:
    """The name that a model meant, where it copied more of a tool's line in the menu, or wrote it in another case.

    >>> meant("- add(a, b?): The sum of two", {"Add", "subtract"})
    'Add'
    """
    if said in known:
        return said
    bare = re.split("[(:]", said.removeprefix("- "), maxsplit=1)[0].strip().lower()
    like = [name for name in known if name.lower() == bare]
    return like[0] if len(like) == 1 else said
