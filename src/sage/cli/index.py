"""``sage index``: build an index of text, search it, look at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sage.cli.output import Bar, print_json, shown_bytes
from sage.errors import InputError

if TYPE_CHECKING:
    from sage.graph.values import Passage
    from sage.index import Index, IndexInfo
    from sage.index.embed import Progress

__all__ = ["app"]

DEFAULT_EMBEDDER = "bert:all-minilm-l6-v2"
SHOWN_CHARS = 160

app = typer.Typer(
    name="index",
    help="Build, search and look at indexes of passages.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
IndexPath = Annotated[Path, typer.Argument(help="Folder of the index.", show_default=False)]


class Mode(StrEnum):
    """What a search compares."""

    vector = "vector"
    text = "text"
    hybrid = "hybrid"


@app.command()
def build(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .txt, .md, .rst, .html, .pdf or .jsonl file, or a folder of them.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write; an index there is replaced.", show_default=False)
    ],
    embedder: Annotated[str, typer.Option(help="Address of the embedding engine.")] = DEFAULT_EMBEDDER,
    no_vectors: Annotated[
        bool, typer.Option("--no-vectors", help="Index words only, embed nothing.")
    ] = False,
    hnsw: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Search vectors by a graph from so many passages on; needs the extra faiss.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut text into passages, embed them, and write an index.

    A JSON row needs "text"; "id", "title" and "meta" are optional, and other keys become metadata. Rows
    with "pid" for "id" are passages already and are not cut.
    """
    from sage.index import Index, read_corpus

    corpus = read_corpus(source)
    with _embedding_progress() as progress:
        index = Index.build(
            corpus.items, path=out, embedder=None if no_vectors else embedder, hnsw=hnsw, progress=progress
        )
    files = {"files": corpus.num_files, "files_skipped": corpus.num_skipped}
    if as_json:
        print_json({**dataclasses.asdict(index.info()), **files})
        return
    skipped = f", {corpus.num_skipped} of other kinds left out" if corpus.num_skipped else ""
    print(f"{_counted(len(index), 'passage')} from {_counted(corpus.num_files, 'file')}{skipped}")
    _print_info(index.info())


@app.command()
def search(
    path: IndexPath,
    query: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option(help="How many passages.", min=1)] = 5,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Compare meaning, words or both. Default: both if there are vectors, else words."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="key=value, or != > >= < <=; several must all hold, equal keys any of them."),
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Address of the embedder, when the index does not name it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the passages that fit a query best."""
    from sage.index import Index

    index = Index.open(path)
    mode = mode or (Mode.text if index.dimension is None else Mode.hybrid)
    found = index.search(
        vector=None if mode is Mode.text else _embed(index, query, embedder or index.embedder),
        text=None if mode is Mode.vector else query,
        k=k,
        where=_parse_where(where or []),
    )
    if as_json:
        print_json({"query": query, "mode": mode.value, "passages": msgspec.to_builtins(found)})
        return
    for rank, passage in enumerate(found, 1):
        _print_passage(rank, passage)
    if not found:
        print("nothing found")


@app.command()
def info(path: IndexPath, as_json: AsJson = False) -> None:
    """Say what an index holds, after checking every byte of it; of a graph, how much it finds beside an exact search."""
    from sage.index import Index

    index = Index.open(path, verify=True)
    known, recall = index.info(), index.recall()
    if as_json:
        share = None if recall is None else {"found": recall.found, "of": recall.of}
        print_json({**dataclasses.asdict(known), "recall_at_10": share})
        return
    _print_info(known)
    if recall is not None:
        print(
            f"a graph (HNSW) finds {100 * recall.found / recall.of:.1f} % of the 10 nearest "
            f"({recall.found:,} of {recall.of:,}, beside an exact search)"
        )


def _embed(index: Index, query: str, address: str | None) -> Any:
    from sage.index.embed import embed_texts

    if index.dimension is None:
        index.require_embedder(None)
    if address is None:
        raise InputError(
            "the index does not say which embedder made it; name it with --embedder, or --mode text"
        )
    embedded = embed_texts([query], address)
    index.require_embedder(embedded.fingerprint)
    return embedded.vectors[0]


def _parse_where(said: list[str]) -> dict[str, Any]:
    """``key=value`` and comparisons as Index.search takes them; a value that looks like JSON is both."""
    conditions: dict[str, dict[str, Any]] = {}
    for text in said:
        sign = min(
            (sign for sign in ("!=", ">=", "<=", "=", ">", "<") if sign in text),
            key=lambda sign: (text.index(sign), -len(sign)),
            default="",
        )
        key, _, value = text.partition(sign) if sign else ("", "", "")
        if not key.strip():
            raise InputError(f"--where {text!r}: expected key=value, or one of != > >= < <= in place of =")
        condition = conditions.setdefault(key.strip(), {})
        name = {"!=": "ne", ">=": "gte", "<=": "lte", "=": "in", ">": "gt", "<": "lt"}[sign]
        if name == "in":
            condition.setdefault("in", []).extend(_meanings(value.strip()))
        elif name in condition:
            raise InputError(f"--where {text!r}: {key.strip()!r} has a condition with {sign} already")
        else:
            condition[name] = _meanings(value.strip())[0]
    return conditions


def _meanings(value: str) -> list[Any]:
    """What a value of the command line may stand for: JSON's number or word, and itself as a string."""
    try:
        read = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return [value]
    return [value] if isinstance(read, str | list | dict) else [read, value]


@contextmanager
def _embedding_progress() -> Iterator[Progress]:
    """A bar of the passages embedded, made when their number is known."""
    with ExitStack() as stack:
        bars: list[Bar] = []
        shown = 0

        def show(done: int, total: int) -> None:
            nonlocal shown
            if not bars:
                bars.append(stack.enter_context(Bar("passages embedded", total)))
            for _ in range(done - shown):
                bars[0].advance()
            shown = done
            bars[0].tick()

        yield show


def _print_info(known: IndexInfo) -> None:
    size = "" if known.size_bytes is None else f", {shown_bytes(known.size_bytes)}"
    print(f"{known.path}: {_counted(known.passages, 'passage')}, {known.words:,} words{size}")
    if known.dimension is None:
        print("searched by words only")
    else:
        print(f"vectors of {known.dimension} numbers by {known.embedder or 'an embedder not named'}")
    if known.metadata:
        print(f"metadata: {', '.join(known.metadata)}")


def _print_passage(rank: int, passage: Passage) -> None:
    text = " ".join(passage.text.split())
    shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1].rstrip() + "…"
    title = f"  {passage.title}" if passage.title else ""
    print(f"[{rank}] {passage.score:.4f}  {passage.id}{title}\n    {shown}")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
