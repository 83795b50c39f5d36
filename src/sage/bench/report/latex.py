r"""A report as LaTeX, for a stock installation: ``booktabs`` and ``graphicx`` are all it needs.

Every number stands as ``\sageval{ID}{TEXT}``, so that it can be found and checked; the macro prints the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sage.bench.report.document import Block, Document, Figure, Paragraph, Part, Table, Text
from sage.bench.report.values import Shown

__all__ = ["files_of"]

Named = Callable[[Shown], str]  # the id of a value

_MACROS = r"\providecommand{\sageval}[2]{#2}"
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{EN DASH}": "--", "\N{MICRO SIGN}": r"\textmu{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}  # fmt: skip
_UNIT = re.compile(r"(?<=\d) (?=(?:s|ms|GB|\\%|\\textmu\{\}s)\b|\\%)")


def files_of(document: Document, named: Named) -> dict[str, str]:
    """The files of the report: name -> content.

    ``section.tex`` puts in ``tables.tex``; ``paper.tex`` puts all together, to be looked at.
    """
    return {
        "tables.tex": _tables(document, named),
        "section.tex": _section(document, named),
        "abstract.tex": _page(_blocks(document.abstract, named)),
        "introduction.tex": _page(_blocks(document.introduction, named)),
        "paper.tex": _paper(document),
    }


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _text(text: Text, named: Named) -> str:
    return "".join(
        escaped(part) if isinstance(part, str) else f"\\sageval{{{named(part)}}}{{{_number(part.text)}}}"
        for part in text
    )


def _number(text: str) -> str:
    """Without a line break between a number and its unit."""
    return _UNIT.sub("~", escaped(text))


def _blocks(blocks: Sequence[Block], named: Named) -> str:
    return "\n\n".join(_block(block, named) for block in blocks)


def _block(block: Block, named: Named) -> str:
    match block:
        case Paragraph():
            return _text(block.text, named)
        case Figure():
            return (
                "\\begin{figure}[htbp]\n  \\centering\n"
                f"  \\includegraphics[width=\\linewidth]{{figures/{block.key}.pdf}}\n"
                f"  \\caption{{{_text(block.caption, named)}}}\n  \\label{{fig:{block.key}}}\n\\end{{figure}}"
            )
        case Table():
            return f"\\csname sage-{block.key}\\endcsname"


def _tables(document: Document, named: Named) -> str:
    tables = [
        block
        for blocks in (document.setup, *(part.blocks for part in document.parts))
        for block in blocks
        if isinstance(block, Table)
    ]
    return _page("\n\n".join(_table(table, named) for table in tables))


def _table(table: Table, named: Named) -> str:
    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    rows = [" & ".join(_text(cell, named) for cell in row) + r" \\" for row in table.rows]
    lines = [
        f"\\expandafter\\def\\csname sage-{table.key}\\endcsname{{%",
        "\\begin{table}[htbp]",
        "  \\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
        f"  \\caption{{{_text(table.caption, named)}}}",
        f"  \\label{{tab:{table.key}}}",
        f"  \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{\\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        "    " + " & ".join(escaped(title) for title in table.header) + r" \\",
        "    \\midrule",
        *(f"    {row}" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}}",
        "\\end{table}}",
    ]
    return "\n".join(lines)


def _section(document: Document, named: Named) -> str:
    parts = [
        "\\input{tables}",
        "\\section{Experiments}\\label{sec:experiments}",
        "\\subsection{Set-up}",
        _blocks(document.setup, named),
        *(_part(part, named) for part in document.parts),
        "\\subsection{Discussion}",
        _blocks(document.discussion, named),
        "\\subsection{Limitations}",
        _blocks(document.limitations, named),
        "\\subsection{Future work}",
        _blocks(document.future, named),
    ]
    return _page("\n\n".join(parts))


def _part(part: Part, named: Named) -> str:
    return f"\\subsection{{{escaped(part.title)}}}\\label{{sec:{part.key}}}\n\n{_blocks(part.blocks, named)}\n\\clearpage"


def _page(content: str) -> str:
    return f"% Made by sage bench report from audited results; do not edit, run it again.\n{_MACROS}\n{content}\n"


def _paper(document: Document) -> str:
    return (
        "\\documentclass{article}\n\\usepackage[a4paper,margin=25mm]{geometry}\n"
        "\\usepackage{textcomp,booktabs,graphicx}\n"
        f"\\title{{{escaped(document.title)}}}\n\\author{{}}\n\\date{{}}\n\\begin{{document}}\n\\maketitle\n"
        "\\begin{abstract}\n\\input{abstract}\n\\end{abstract}\n\\section{Introduction}\n\\input{introduction}\n"
        "\\input{section}\n\\end{document}\n"
    )
