"""Where passages are found: an index over text, searched by meaning, by words, or by both."""

from sage.index.bm25 import BM25
from sage.index.chunk import Chunking, Document, chunk_document
from sage.index.corpus import Corpus, read_corpus
from sage.index.index import Index, IndexInfo

__all__ = [
    "BM25",
    "Chunking",
    "Corpus",
    "Document",
    "Index",
    "IndexInfo",
    "chunk_document",
    "read_corpus",
]
