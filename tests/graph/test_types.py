from __future__ import annotations

import collections
import enum
import functools
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import GenericAlias
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
    runtime_checkable,
)

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.errors import InputError
from sage.graph.types import Missing, assignable, part_type, signature_of, type_name
from sage.graph.values import Passage

T = TypeVar("T")
Number = TypeVar("Number", int, float)
Text = TypeVar("Text", bound=str)
Seconds = NewType("Seconds", float)
Metres = NewType("Metres", float)
Whole = NewType("Whole", int)


@dataclass
class Answer:
    score: float
    text: str

    @property
    def short(self) -> str:
        return self.text[:10]


class Better(Answer): ...


@dataclass
class Box(Generic[T]):
    item: T


class Reply(TypedDict):
    text: str
    tokens: NotRequired[int]


class Longer(TypedDict):
    text: str
    tokens: int
    model: str


class Node(TypedDict):
    next: Node


class OtherNode(TypedDict):
    next: OtherNode


class Point(NamedTuple):
    x: int
    y: int


class Model(pydantic.BaseModel):
    label: Literal["yes", "no"]
    others: list[Answer] = []


class Colour(enum.StrEnum):
    RED = "red"


class Open:
    declared: int

    def __init__(self) -> None:
        self.late = 1


class Names(list[str]): ...


class Sized2(Protocol):
    size: int


@runtime_checkable
class Closes(Protocol):
    def close(self) -> None: ...


ACCEPTED: list[tuple[Any, Any]] = [
    (str, str),
    (Any, int),
    (int, Any),
    (bool, int),
    (int, float),
    (bool, complex),
    (float, complex),
    (str, str | None),
    (None, str | None),
    (int | float, float),
    (str | None, None | int | str),
    (list[int], list[float]),
    (list[int], list),
    (list, list[str]),
    (list[str], Sequence[str]),
    (tuple[str, str], Sequence[str]),
    (tuple[str, ...], tuple[str, str]),
    (tuple[str, int], tuple[str, float]),
    (tuple[int, int], tuple[float, ...]),
    (dict[str, int], Mapping[str, float]),
    (dict[str, int], Iterable[str]),
    (set[int], Collection[int]),
    (collections.Counter[str], Mapping[str, int]),
    (Generator[int, None, None], Iterator[int]),
    (Coroutine[Any, Any, int], Awaitable[int]),
    (Names, Sequence[str]),
    (str, Iterable[str]),
    (Literal["a", "b"], str),
    (Literal["a"], Literal["a", "b"]),
    (bool, Literal[True, False]),
    (Literal[1], float),
    (Better, Answer),
    (Box[int], Box[float]),
    (Longer, Reply),
    (Reply, dict[str, Any]),
    (Longer, Mapping[str, str | int]),
    (dict[str, Any], Reply),
    (dict, Reply),
    (Node, OtherNode),
    (Seconds, float),
    (float, Seconds),
    (int, Seconds),
    (list[Seconds], list[float]),
    (str, T),
    (int, Number),
    (str, Text),
    (T, int),
    (Annotated[int, "n"], int),
    (int, Annotated[float, "s"]),
    (NDArray[np.float32], np.ndarray),
    (np.ndarray, NDArray[np.float32]),
    (NDArray[np.int8], NDArray[np.float32]),
    (Answer, Sized2),
    (Colour, str),
    (Callable[[int], str], Callable[..., Any]),
    (type[Better], type[Answer]),
    (AsyncIterator[int], AsyncIterator[float]),
    (object, object),
    (int, object),
    ("Unresolved", int),
]

REFUSED: list[tuple[Any, Any]] = [
    (str, int),
    (float, int),
    (int, str),
    (int, bool),
    (str | None, str),
    (None, str),
    (int | str, int),
    (list[int], list[str]),
    (list[int], tuple[int, ...]),
    (tuple[str, int], tuple[str, str]),
    (tuple[str], tuple[str, str]),
    (tuple[str, int], Sequence[str]),
    (dict[str, int], Mapping[str, str]),
    (dict[str, int], Iterable[int]),
    (dict[str, list[int]], dict[str, list[str]]),
    (Names, Sequence[int]),
    (str, list[str]),
    (str, Sequence[int]),
    (str, Literal["a"]),
    (Literal["a", "c"], Literal["a", "b"]),
    (Literal[1], Literal[True]),
    (Answer, Better),
    (Box[str], Box[int]),
    (Reply, Longer),
    (Reply, Answer),
    (dict[str, int], Reply),
    (Reply, dict[str, str]),
    (list[str], Reply),
    (Seconds, Metres),
    (str, Seconds),
    (str, Number),
    (int, Text),
    (object, str),
    (int, Closes),
    (int, Callable[..., Any]),
    (type[Answer], type[Better]),
    (AsyncIterator[str], AsyncIterator[int]),
    (str, AsyncIterator[str]),
    (NDArray[np.float32], str),
    (Passage, str),
    (list[Passage], list[str]),
]


@pytest.mark.parametrize(("source", "target"), ACCEPTED, ids=str)
def test_a_fitting_type_is_accepted(source: Any, target: Any) -> None:
    assert assignable(source, target)


@pytest.mark.parametrize(("source", "target"), REFUSED, ids=str)
def test_a_type_that_cannot_fit_is_refused(source: Any, target: Any) -> None:
    assert not assignable(source, target)


leaves = st.sampled_from([int, float, str, bool, bytes, None, Answer, Literal["a", 1], Any])


def listed(item: Any) -> Any:
    return GenericAlias(list, (item,))


declared = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(listed),
        inner.map(lambda item: GenericAlias(dict, (str, item))),
        inner.map(lambda item: GenericAlias(tuple, (item, ...))),
        st.tuples(inner, inner).map(lambda pair: GenericAlias(tuple, pair)),
        st.tuples(inner, st.sampled_from([None, int, str])).map(Union.__getitem__),
    ),
    max_leaves=6,
)


@given(declared)
def test_every_type_fits_itself_anything_and_its_own_option(hint: Any) -> None:
    assert assignable(hint, hint)
    assert assignable(hint, Any)
    assert assignable(hint, object)
    assert assignable(hint, Union.__getitem__((hint, None)))


@given(declared, declared)
def test_containers_are_covariant(source: Any, target: Any) -> None:
    assert assignable(listed(source), GenericAlias(Sequence, (target,))) == assignable(source, target)


@given(declared)
def test_a_type_name_is_one_short_readable_line(hint: Any) -> None:
    name = type_name(hint)
    assert name
    assert "\n" not in name
    assert "<class" not in name
    assert "typing." not in name


def test_type_names_read_as_written() -> None:
    assert type_name(list[Passage]) == "list[Passage]"
    assert type_name(None | str) == "str | None"
    assert type_name(float) == "float"
    assert type_name(Literal["a", 1]) == "Literal['a', 1]"
    assert type_name(Callable[[int], str]) == "Callable[[int], str]"
    assert type_name(Callable[..., Any]) == "Callable[..., Any]"
    assert type_name(tuple[int, ...]) == "tuple[int, ...]"
    assert type_name(NDArray[np.float32]) == "NDArray[float32]"
    assert type_name(Annotated[int, 5]) == "int"
    assert type_name(Seconds) == "Seconds"


PARTS: list[tuple[Any, str | int, Any]] = [
    (Answer, "score", float),
    (Answer, "short", str),
    (Better, "text", str),
    (Box[int], "item", int),
    (Box, "item", Any),
    (Box[list[str]], "item", list[str]),
    (Reply, "tokens", int),
    (Point, "x", int),
    (Point, 1, int),
    (Passage, "score", float),
    (Passage, "meta", Mapping[str, Any]),
    (Model, "label", Literal["yes", "no"]),
    (Model, "others", list[Answer]),
    (Mapping[str, int], "anything", int),
    (dict[int, str], 3, str),
    (dict, "anything", Any),
    (list[Answer], 0, Answer),
    (Sequence[str], 4, str),
    (tuple[int, str], 1, str),
    (tuple[int, ...], 9, int),
    (Names, 0, str),
    (str, 0, str),
    (Colour, "value", str),
    (Answer | None, "score", float),
    (Answer | Box[int], "item", int),
    (Seconds, "real", Missing),
    (Any, "x", Any),
    (object, "x", Any),
    (Open, "declared", int),
    (Open, "late", Any),
    (np.ndarray, 0, Any),
    (np.ndarray, "shape", Any),
]


@pytest.mark.parametrize(("hint", "part", "expected"), PARTS, ids=str)
def test_a_part_has_its_declared_type(hint: Any, part: str | int, expected: Any) -> None:
    found = part_type(hint, part)
    assert found == expected or (expected is Missing and isinstance(found, Missing))


@pytest.mark.parametrize(
    ("hint", "part", "message"),
    [
        (Answer, "scor", "Answer has no part 'scor': did you mean 'score'?"),
        (Reply, "txet", "Reply has no part 'txet': did you mean 'text'?"),
        (Model, "lable", "Model has no part 'lable': did you mean 'label'?"),
        (Answer | None, "tex", "Answer | None has no part 'tex': did you mean 'text'?"),
        (
            list[Answer],
            "text",
            "list[Answer] has no part 'text': take an item of it first, as in {x[0].text}",
        ),
        (float, "real", "float has no parts, so no 'real'"),
        (tuple[int, int], 2, "tuple[int, int] has no item [2]"),
        (float, 0, "float has no item [0]"),
        (set[int], 0, "set[int] has no item [0]"),
        (dict[str, int], 0, "dict[str, int] has no item [0]"),
        (Reply, 0, "Reply has no item [0]"),
        (Answer, "__dict__", "Answer has no part '__dict__': choose from 'score', 'short', 'text'"),
    ],
)
def test_a_definite_absence_says_what_there_is(hint: Any, part: str | int, message: str) -> None:
    found = part_type(hint, part)
    assert isinstance(found, Missing)
    assert str(found) == message


def plain(question: str, passages: list[Passage], *, k: int = 4) -> float:
    return 0.0


async def asynchronous(a: int) -> str:
    return str(a)


async def pieces(text: AsyncIterator[str]) -> AsyncIterator[str]:
    async for piece in text:
        yield piece


class Grader:
    def __call__(self, answer: Answer) -> float:
        return 0.0

    async def method(self, a: str) -> int:
        return 0


def test_a_signature_names_parameters_types_and_result() -> None:
    found = signature_of(plain)
    assert [(p.name, p.type, p.has_default, p.keyword_only) for p in found.parameters] == [
        ("question", str, False, False),
        ("passages", list[Passage], False, False),
        ("k", int, True, True),
    ]
    assert found.returns is float
    assert not found.is_async


def test_a_coroutine_gives_what_awaiting_it_gives() -> None:
    assert signature_of(asynchronous).is_async
    assert signature_of(asynchronous).returns is str

    def hidden(a: int) -> Awaitable[str]:
        return asynchronous(a)

    assert signature_of(hidden).is_async
    assert signature_of(hidden).returns is str


def test_an_async_generator_is_a_stream() -> None:
    found = signature_of(pieces)
    assert (found.is_stream, found.is_async) == (True, False)
    assert found.returns == AsyncIterator[str]


def test_callable_objects_methods_partials_and_classes_have_signatures() -> None:
    assert signature_of(Grader()).parameters[0].type is Answer
    assert signature_of(Grader().method).is_async
    bound = signature_of(functools.partial(plain, k=2))
    assert bound.returns is float
    assert bound.parameters[2].has_default
    made = signature_of(Answer)
    assert [(p.name, p.type) for p in made.parameters] == [("score", float), ("text", str)]
    assert made.returns is Answer
    assert [p.type for p in signature_of(Passage).parameters][:2] == [str, str]
    assert signature_of(Point).parameters[1].type is int
    assert signature_of(Model).parameters[0].type == Literal["yes", "no"]


def test_a_decorated_function_is_read_as_what_it_wraps() -> None:
    @functools.wraps(asynchronous)
    def counted(*args: Any, **kwargs: Any) -> Any:
        return asynchronous(*args, **kwargs)

    found = signature_of(counted)
    assert [p.name for p in found.parameters] == ["a"]
    assert found.is_async
    assert signature_of(functools.cache(plain)).returns is float


def test_what_cannot_be_resolved_counts_as_any_with_a_note() -> None:
    def odd(a: Nowhere, b: int) -> Elsewhere | None:  # type: ignore[name-defined]  # noqa: F821 - the point
        return None

    found = signature_of(odd)
    assert [p.type for p in found.parameters] == [Any, int]
    assert found.returns is Any
    assert len(found.notes) == 2
    assert "Nowhere" in found.notes[0]


def test_a_lambda_has_names_and_no_types() -> None:
    found = signature_of(lambda a, b=1: a)
    assert [(p.name, p.type, p.has_default) for p in found.parameters] == [
        ("a", Any, False),
        ("b", Any, True),
    ]
    assert found.returns is Any


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (len, "by position only"),
        (str.upper, "by position only"),
        (lambda *parts: parts, "takes *parts"),
        (dict, "no signature"),
        (5, "is no function"),
    ],
)
def test_a_callable_without_named_parameters_is_refused(fn: Any, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("*", r"\*")):
        signature_of(fn)


def test_extra_keywords_are_told() -> None:
    def open_ended(a: int, **rest: str) -> None: ...

    found = signature_of(open_ended)
    assert found.takes_extra
    assert [p.name for p in found.parameters] == ["a"]
    assert found.returns is type(None)


def test_msgspec_structs_count_as_closed() -> None:
    class Closed(msgspec.Struct):
        a: int

    assert part_type(Closed, "a") is int
    assert isinstance(part_type(Closed, "b"), Missing)
