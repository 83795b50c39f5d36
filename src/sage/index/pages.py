"""Text out of HTML and PDF files, as Markdown that chunking understands. Only here is pypdf imported."""

from __future__ import annotations

import io
import logging
import re
from html.parser import HTMLParser

from sage.errors import InputError, SetupError

__all__ = ["Page", "html_page", "pdf_page"]

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "td",
        "th",
        "tr",
        "ul",
    ]
)
_SILENT = frozenset({"script", "style", "template", "noscript", "svg", "head", "nav"})
_SPACE = re.compile(r"[ \t\r\f\v\xa0]*\n\s*|\s+")


class Page:
    """What a document says: its title, if it has one, and its text."""

    __slots__ = ("text", "title")

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        self.text = text


def html_page(content: str) -> Page:
    """The title and the text of an HTML page: headings as ``#``, code as it stands; no scripts, styles or menus.

    >>> page = html_page("<title>Heaps</title><h1>Heap</h1><p>A <b>tree</b>.<script>x</script>")
    >>> page.title, page.text.splitlines()
    ('Heaps', ['# Heap', '', 'A tree.'])
    """
    reader = _Reader()
    reader.feed(content)
    reader.close()
    return Page(" ".join(reader.title.split()), reader.text())


class _Reader(HTMLParser):
    """Collects blocks of text; what is open and never closed does no harm."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._blocks: list[str] = []
        self._words: list[str] = []
        self._silent: list[str] = []  # tags that are open and whose text is not wanted
        self._in_title = False
        self._heading = 0
        self._is_code = False

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = not self.title
        elif tag == "body":
            self._silent.clear()
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "br":
            self._words.append("\n" if self._is_code else " ")
        elif tag in _HEADINGS:
            self._end_block()
            self._heading = _HEADINGS[tag]
        elif tag == "pre":
            self._end_block()
            self._is_code = True
        elif tag in _BLOCKS:
            self._end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._silent:
            while self._silent.pop() != tag:
                pass
        elif tag in _HEADINGS or tag == "pre" or tag in _BLOCKS:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent:
            self._words.append(data)

    def text(self) -> str:
        self._end_block()
        return "\n\n".join(self._blocks)

    def _end_block(self) -> None:
        said, self._words = "".join(self._words), []
        heading, self._heading = self._heading, 0
        is_code, self._is_code = self._is_code, False
        if not said.strip():
            return
        if is_code:
            lines = said.strip("\n").rstrip().split("\n")
            self._blocks.append("\n".join(["```", *lines, "```"]))
        else:
            self._blocks.append("#" * heading + (" " if heading else "") + _SPACE.sub(" ", said).strip())


def pdf_page(content: bytes, name: str) -> Page:
    """The title and the text of a PDF, page after page.

    Raises:
        InputError: it is no PDF, is locked with a password, or is damaged.
        SetupError: pypdf is not installed.
    """
    try:
        import pypdf
    except ImportError as error:
        raise SetupError(
            "PDF files need the package pypdf; type: pip install 'sage-dataflow[pdf]'"
        ) from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every flaw it can live with
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{name!r} is locked with a password; unlock it first")
        pages = [page.extract_text() for page in reader.pages]
        title = reader.metadata.title if reader.metadata is not None else None
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name!r} is no PDF that can be read: {type(error).__name__}: {error}") from error
    return Page(str(title or "").strip(), "\n\n".join(text.strip() for text in pages if text.strip()))
