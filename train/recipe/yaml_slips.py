"""Common slips in a recipe's YAML: which line is wrong, and how it is written right.

PyYAML says where it could not go on, which is often a line or more after the slip, and in words of its grammar. Here
the lines themselves are looked at: a tab, a quote or bracket that is not closed, a colon without a space, a colon in
unquoted text, uneven indentation.
"""

import re
from collections.abc import Iterator

import yaml

ENTRY = re.compile(r"(?P<indent>\s*)(?:-\s+)?(?P<key>[A-Za-z_]\w*)\s*:(?:\s+(?P<value>.*?))?\s*")
NO_SPACE = re.compile(r"\s*(?P<key>[A-Za-z_]\w*):(?P<value>[^\s/:].*?)\s*")
COLON_IN_TEXT = re.compile(r":(\s|$)")
UNSTARTABLE = re.compile(r"found character '(.)' that cannot start any token")
LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as PyYAML counts lines
LINES_BACK = 3  # unquoted text may go on over this many lines before PyYAML gives up


def find_slip(text: str, error: yaml.MarkedYAMLError) -> tuple[int, str] | None:
    """(line, counted from 1; what is wrong there and how to write it), or None where it is no common slip."""
    problem, mark = error.problem or "", error.problem_mark
    assert mark is not None
    lines = LINE_END.split(text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "'\\t'" in problem:
        where = "inside the line" if line[: mark.column].strip() else "at the beginning of the line"
        return mark.line + 1, f"there is a tab {where}; indent with spaces, not tabs"
    if slip := _quote(text, lines, error) or _bracket(lines, error):
        return slip
    for number in _lines_before(lines, mark.line):
        if advice := missing_space(lines[number]):
            return number + 1, advice
    if character := UNSTARTABLE.match(problem):
        return mark.line + 1, f"text that begins with {character[1]} is written in quotes"
    if problem.startswith("mapping values are not allowed"):
        return mark.line + 1, _colon_in_text(line) or _indentation(lines, mark.line)
    if "'<block mapping start>'" in problem:
        return mark.line + 1, _indentation(lines, mark.line)
    return None


def missing_space(text: str) -> str:
    """What to say of `lr:1e-4`, or of such text alone; "" where no space is missing."""
    if slip := NO_SPACE.fullmatch(text):
        return f"there is no space after the colon of {slip['key']}; write {slip['key']}: {_shortened(slip['value'])}"
    return ""


def _lines_before(lines: list[str], number: int) -> Iterator[int]:
    """The line and those right before it, without comments and empty ones."""
    told = [i for i in range(min(number, len(lines) - 1), -1, -1) if lines[i].split("#")[0].strip()]
    yield from told[:LINES_BACK]


def _quote(text: str, lines: list[str], error: yaml.MarkedYAMLError) -> tuple[int, str] | None:
    assert error.problem_mark is not None
    if "quoted scalar" in (error.context or "") and error.context_mark is not None:
        opened, column = error.context_mark.line, error.context_mark.column
        return _unclosed_quote(lines, opened, column)
    last = None
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken) and token.start_mark.index < error.problem_mark.index:
                last = token
    except yaml.YAMLError:
        pass
    if last is None or last.style not in ("'", '"') or last.end_mark.line != error.problem_mark.line:
        return None
    if last.start_mark.line < last.end_mark.line:  # it was closed by the quote that should have opened another text
        return _unclosed_quote(lines, last.start_mark.line, last.start_mark.column)
    if "'<scalar>'" in (error.problem or ""):
        return last.end_mark.line + 1, "text goes on after a closing quote; put quotes around all of it"
    return None


def _unclosed_quote(lines: list[str], number: int, column: int) -> tuple[int, str]:
    line = lines[number]
    return number + 1, f"the quote {line[column]} is not closed; write {_shortened(line.strip())}{line[column]}"


def _bracket(lines: list[str], error: yaml.MarkedYAMLError) -> tuple[int, str] | None:
    """Of a list or section in brackets."""
    opened, mark = error.context_mark, error.problem_mark
    if (
        error.context not in ("while parsing a flow mapping", "while parsing a flow sequence")
        or opened is None
        or mark is None
    ):
        return None
    on_its_line = mark.line < len(lines) and opened.line == mark.line
    if on_its_line and "got ':'" in (error.problem or ""):
        return mark.line + 1, f"a colon in unquoted text; put the text in quotes: {_quoted_before(lines, error)}"
    if on_its_line and "<stream end>" not in (error.problem or ""):
        return None
    bracket = lines[opened.line][opened.column]
    return opened.line + 1, f"the {bracket} is not closed; close it with {'}' if bracket == '{' else ']'}"


def _quoted_before(lines: list[str], error: yaml.MarkedYAMLError) -> str:
    """The text around the colon at which a bracket could not be read, in quotes, after its key if it has one."""
    assert error.problem_mark is not None
    line, column = lines[error.problem_mark.line], error.problem_mark.column
    start = max(line.rfind(sign, 0, column) for sign in "{[,") + 1
    end = min([line.find(sign, column) for sign in ",}]" if sign in line[column:]], default=len(line))
    part = line[start:end].strip()
    entry = ENTRY.fullmatch(part)
    return f"{entry['key']}: {_in_quotes(entry['value'])}" if entry and entry["value"] else _in_quotes(part)


def _colon_in_text(line: str) -> str:
    entry = ENTRY.fullmatch(line)
    value = entry["value"] if entry else None
    if entry is None or not value or not COLON_IN_TEXT.search(value):
        return ""
    return f"a colon in unquoted text; put the text in quotes: {entry['key']}: {_in_quotes(value)}"


def _indentation(lines: list[str], number: int) -> str:
    """What is said of a line that is indented otherwise than those around it."""
    own, before = (ENTRY.match(lines[i]) for i in [*_lines_before(lines, number), number, number][:2])
    said = "it is indented otherwise than the line before"
    if own and before:
        deep, other = len(own["indent"]), len(before["indent"])
        said = f"{own['key']} is indented by {deep}, {before['key']} before it by {other}"
    return f"{said}; indent all keys of a section alike"


def _in_quotes(text: str) -> str:
    sign = "'" if '"' in text else '"'
    return f"{sign}{_shortened(text)}{sign}"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
