"""Numbers and tables of plain text, as a person reads them on a terminal or in a log."""

import io
from collections.abc import Sequence


def in_hours(seconds: float) -> str:
    """1,234.56 h; 12.3 min under an hour."""
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"


def in_units(count: int) -> str:
    """1.5 GB for 1,500,000,000."""
    size = float(max(0, count))
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def table(rows: Sequence[Sequence[object]], head: Sequence[str] = (), left: Sequence[int] = (0,)) -> list[str]:
    """Lines of aligned columns, two spaces apart; the columns numbered in `left` are aligned left, the others right.
    Nothing is wrapped, cut or taken for markup, and no line ends in spaces."""
    if not rows and not head:
        return []
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, show_header=bool(head), pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for column in range(len(head or rows[0])):
        title = Text(head[column]) if head else ""
        drawn.add_column(title, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    text = io.StringIO()
    Console(file=text, width=100_000, color_system=None, force_terminal=False).print(drawn, crop=False)
    return [line.rstrip() for line in text.getvalue().splitlines()]
