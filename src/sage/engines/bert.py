"""BERT-family embedders in this process, without torch: ``bert:REFERENCE?pooling=cls&threads=2``.

Any folder with ``model.safetensors`` and ``tokenizer.json`` of a BERT opens: MiniLM, BGE, GTE (the older), E5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Reply,
    Usage,
)
from sage.engines.bert_blas import one_blas_thread
from sage.engines.bert_folder import TOKENIZER, BertFolder, read_folder
from sage.engines.bert_model import Pooling, embed_batch
from sage.engines.cpus import usable_cpus
from sage.engines.models import MODELS, resolve
from sage.engines.openai_address import shown
from sage.errors import EngineError, InputError, SetupError
from sage.settings import Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["length_batches", "open_bert"]

MAX_THREADS = 8
#: Tokens, padding included, that go through the model together: enough for fast products, little enough for
#: the CPU's cache and for a cancelled call to end soon.
BATCH_TOKENS = 1024
#: Share of padding at which a batch is closed early, once it has a quarter of the tokens it may have.
MAX_PADDING = 0.125
#: Texts cut into tokens between two looks at whether the call was cancelled.
TOKENIZE_TEXTS = 256

T = TypeVar("T")
Floats: TypeAlias = NDArray[np.float32]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What an address may say after the question mark."""

    pooling: Pooling | None = None  # None: as the folder says
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None  # batches computed at once

    @classmethod
    def read(cls, address: Address) -> Options:
        """The options of an address.

        Raises:
            InputError: an unknown option, or a value out of range.
        """
        address.refuse_unknown_options(*cls.__struct_fields__)
        try:
            return msgspec.convert(dict(address.options), cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(
                f"engine {shown(address)!r} has an option that cannot be read: {error}"
            ) from error


@asynccontextmanager
async def open_bert(address: Address, settings: Settings) -> AsyncIterator[Engine]:
    """An embedder over the folder at ``address``, computing on threads of its own, one per CPU by default.

    Raises:
        InputError: the address is wrong. SetupError: a file or the package tokenizers is missing or broken.
    """
    options = Options.read(address)
    num_threads = options.threads or min(usable_cpus(), MAX_THREADS)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="sage-bert") as threads:
        loop = asyncio.get_running_loop()
        folder, tokenizer = await loop.run_in_executor(threads, _load, address, options, settings)
        info = EngineInfo(
            address=shown(address),
            model=address.target if address.target in MODELS else folder.path.name,
            can=frozenset({"embed"}),
            limit=num_threads,
            context_tokens=folder.max_tokens,
            dimension=folder.weights.dimension,
            fingerprint=folder.fingerprint,
        )
        yield BertEngine(folder, tokenizer, info, threads)


class BertEngine:
    """One embedder in this process. Made by :func:`open_bert`."""

    def __init__(
        self, folder: BertFolder, tokenizer: Tokenizer, info: EngineInfo, threads: ThreadPoolExecutor
    ) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._info = info
        self._threads = threads

    @property
    def info(self) -> EngineInfo:
        """What is known of the embedder. ``context_tokens``: what a text has beyond them is cut."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:  # noqa: ARG002 - every engine takes them
        """Refused: this engine embeds."""
        raise EngineError(
            f"engine {self._info.address}: it embeds and cannot generate; name a model such as "
            "'llama:smollm2-135m-instruct'",
            fault="refused",
        )

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Unit vectors of texts. A cancelled call ends with the batch it is computing."""
        try:
            async with asyncio.timeout(request.timeout_s):
                tokens = await self._tokenize(request.texts)
                vectors = await self._compute(tokens)
        except TimeoutError:
            raise EngineError(
                f"engine {self._info.address}: {len(request.texts)} texts were not embedded in their "
                f"{request.timeout_s:g} s",
                fault="timeout",
            ) from None
        return EmbedReply(vectors, Usage(sum(map(len, tokens)), counted_by="tokenizer"))

    async def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        tokens: list[list[int]] = []
        for start in range(0, len(texts), TOKENIZE_TEXTS):
            some = texts[start : start + TOKENIZE_TEXTS]
            tokens += await self._on_thread(lambda some=some: [self._encode(text) for text in some])  # type: ignore[misc]  # mypy infers no type for a lambda with a default
        return tokens

    def _encode(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text).ids
        except (UnicodeEncodeError, TypeError) as error:  # tokenizers says TypeError of half a surrogate pair
            raise EngineError(
                f"engine {self._info.address}: a text is no valid Unicode; decode its source as UTF-8 with "
                "errors='replace'",
                fault="refused",
            ) from error
        return ids

    async def _compute(self, tokens: list[list[int]]) -> Floats:
        """Batches of like length, as many at once as there are threads; calls made at once share those."""
        vectors: Floats = np.zeros((len(tokens), self._folder.weights.dimension), dtype=np.float32)
        batches = iter(length_batches([len(text) for text in tokens]))

        async def work() -> None:
            for rows in batches:
                texts = [tokens[row] for row in rows]
                vectors[rows] = await self._on_thread(lambda texts=texts: self._forward(texts))  # type: ignore[misc]  # as above

        async with asyncio.TaskGroup() as group:
            for _ in range(self._info.limit):
                group.create_task(work())
        return vectors

    def _forward(self, texts: list[list[int]]) -> Floats:
        with one_blas_thread():
            return embed_batch(self._folder.weights, texts, self._folder.pooling)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def length_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Which texts to compute together: positions in ``lengths``, each once, in batches of like length.

    >>> length_batches([3, 900, 4, 5])
    [[0, 2, 3], [1]]
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    num_real = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        num_padded = lengths[row] * (len(batch) + 1)  # the longest so far is this one
        is_wasteful = (
            num_real * 4 > BATCH_TOKENS and num_padded - num_real - lengths[row] > num_padded * MAX_PADDING
        )
        if batch and (num_padded > BATCH_TOKENS or is_wasteful):
            batches.append(batch)
            batch, num_real = [], 0
        batch.append(row)
        num_real += lengths[row]
    return [*batches, batch] if batch else batches


def _load(address: Address, options: Options, settings: Settings) -> tuple[BertFolder, Tokenizer]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SetupError(
            f'bert: engines need the package tokenizers ({error}); type `pip install "sage-dataflow[local]"`'
        ) from error
    folder = read_folder(resolve(address.target, settings), options.pooling)
    file = folder.path / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no narrower one
        raise SetupError(f"{file} is no tokenizer: {error}; download it again") from error
    if tokenizer.get_vocab_size() > len(folder.weights.words):
        raise SetupError(
            f"{file} has more tokens than the model beside it has embeddings: they do not belong together"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(folder.max_tokens)
    return folder, tokenizer
