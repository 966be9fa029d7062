"""A table of texts for a console and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["console_table", "markdown_table"]

Cells = Sequence[Sequence[str]]


def console_table(cells: Cells) -> str:
    """Return rows of cells, the first of which is the header, in columns; the first column to the left."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(cells: Cells, texts: Collection[int] = (0,)) -> str:
    """Return the same for Markdown, with the columns of texts to the left; what would end a cell is escaped."""
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [header, ["---" if i in texts else "---:" for i in range(len(header))], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
