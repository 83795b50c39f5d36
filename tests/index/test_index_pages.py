"""Text out of HTML and PDF."""

from __future__ import annotations

import io
from pathlib import Path

import hypothesis.strategies as st
import pypdf
import pytest
from hypothesis import given

from sage import InputError
from sage.index.corpus import read_corpus
from sage.index.pages import html_page, pdf_page

PAGE = """<!doctype html><html><head><title>  On
heaps </title><style>p {color: red}</style><script>var x = "<p>no</p>"</script></head>
<body><nav><a href="/">Home</a></nav><h1>Heaps &amp; trees</h1>
<p>A <b>heap</b> is a
tree.<br>Really.</p><ul><li>push<li>pop</ul><pre>  heappush(h, 1)
  heappop(h)
</pre><table><tr><th>op<th>cost</tr><tr><td>push<td>log n</tr></table></body></html>"""


def test_a_page_becomes_markdown_with_headings_and_code() -> None:
    page = html_page(PAGE)
    assert page.title == "On heaps"
    assert page.text == (
        "# Heaps & trees\n\nA heap is a tree. Really.\n\npush\n\npop\n\n"
        "```\n  heappush(h, 1)\n  heappop(h)\n```\n\nop\n\ncost\n\npush\n\nlog n"
    )


@given(st.text(alphabet="<>/a &;\"'=!-prehscitdy\n", max_size=80))
def test_any_soup_of_tags_is_read(soup: str) -> None:
    assert isinstance(html_page(soup).text, str)


def pdf(*pages: str, title: str = "") -> bytes:
    """A small PDF with these texts, written by hand."""
    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 200)
        stream = pypdf.generic.DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        font = pypdf.generic.DictionaryObject({
            pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
            pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
            pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
        })  # fmt: skip
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_pdf_gives_its_title_and_the_text_of_its_pages() -> None:
    page = pdf_page(pdf("One heap.", "Two heaps.", title="Heaps"), "h.pdf")
    assert (page.title, page.text) == ("Heaps", "One heap.\n\nTwo heaps.")


def test_what_is_no_pdf_or_is_cut_off_is_told_of() -> None:
    for content in (b"", b"%PDF-1.4 and no more", pdf("text")[:200]):
        with pytest.raises(InputError, match=r"'h\.pdf' is no PDF that can be read"):
            pdf_page(content, "h.pdf")


def test_a_locked_pdf_is_told_of() -> None:
    writer = pypdf.PdfWriter(io.BytesIO(pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    with pytest.raises(InputError, match="locked with a password"):
        pdf_page(out.getvalue(), "h.pdf")


def test_a_folder_with_pages_and_papers_is_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<h1>Heaps</h1><p>A tree.", encoding="utf-8")
    (tmp_path / "b.pdf").write_bytes(pdf("Halves."))
    (tmp_path / "c.htm").write_text("<p>plain", encoding="utf-8")
    items = read_corpus(tmp_path).items
    assert [(item.id, item.title, item.text) for item in items] == [
        ("a.html", "", "# Heaps\n\nA tree."),
        ("b.pdf", "b", "Halves."),
        ("c.htm", "c", "plain"),
    ]
