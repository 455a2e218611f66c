"""HTML pages that need nothing else: no script, no style, font or picture from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from data_prep.text import printable

STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #3b78b5; --bad: #b3261e; --warn: #9a6700; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --bar: #78aee0; --bad: #ff8a80; --warn: #e3b341; --good: #56d364; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .9em; } code, td, p { overflow-wrap: anywhere; }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.spreads { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; height: auto; } rect { fill: var(--bar); } line { stroke: var(--line); }
svg text { font-size: 13px; fill: currentColor; } details { margin: .25rem 0 .75rem; } summary { cursor: pointer; }
section { border-top: 1px solid var(--line); padding: .8rem 0; } audio { width: 30rem; max-width: 100%; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page; `title` is text, `body` is HTML."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f"<title>{text(title)}</title><style>{STYLE}</style>"
    body = "\n".join([f"<h1>{text(title)}</h1>", *body])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n</body></html>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Of cells that are HTML; columns numbered in `numbers` are aligned right."""
    styles = [' class="number"' if column in numbers else "" for column in range(len(head))]
    titles = "".join(f"<th{style}>{title}</th>" for style, title in zip(styles, head, strict=True))
    lines = ["".join(f"<td{style}>{cell}</td>" for style, cell in zip(styles, row, strict=True)) for row in rows]
    return f"<table><tr>{titles}</tr>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def text(value: str) -> str:
    """Escaped, as text or as an attribute's value; characters that cannot be seen are written as escapes."""
    return escape(printable(value))
