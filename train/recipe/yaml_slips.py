"""What is wrong with a recipe's YAML that PyYAML cannot parse: the line, its text, and how to write it.

PyYAML names the place where it could not go on, often a line or more after the slip, in terms of its grammar.
"""

import re

import yaml

NO_SPACE = re.compile(r"\s*(?P<key>[A-Za-z_]\w*):(?P<value>[^\s/:].*?)\s*")
OPEN_QUOTE = re.compile(r"""[^#'"]*(?P<quote>['"])(?:(?!(?P=quote)).)*""")
LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as PyYAML counts lines
LINES_BACK = 3  # unquoted text may go on over this many lines before PyYAML gives up
UNEVEN = "indent all keys of a section alike"
ADVICE = (  # a part of PyYAML's context and problem: what to do
    ("scanning a quoted scalar", "the quote is not closed; close it"),
    ("'<scalar>'", "text goes on after a closing quote; put quotes around all of it"),
    ("parsing a flow mapping; expected ',' or '}', but got ':'", "put text with a colon in it in quotes"),
    ("parsing a flow mapping", "the { is not closed; close it with }"),
    ("parsing a flow sequence", "the [ is not closed; close it with ]"),
    ("'\\t'", "there is a tab; indent with spaces, not tabs"),
    ("cannot start any token", "text that begins with such a character is written in quotes"),
    ("mapping values are not allowed", "put text with a colon in it in quotes"),
    ("'<block mapping start>'", UNEVEN),
)


def slip(text: str, error: yaml.MarkedYAMLError) -> str:
    """`LINE: text there: what to do`, or PyYAML's own words where it is no common slip."""
    context, problem, mark = error.context or "", error.problem or "", error.problem_mark
    assert mark is not None
    lines = [*LINE_END.split(text), ""]
    number = min(mark.line, len(lines) - 1)
    before = [i for i in range(number, -1, -1) if lines[i].split("#")[0].strip()]
    description = f"{context}; {problem}"
    if error.context_mark is not None and context.endswith(("quoted scalar", "flow mapping", "flow sequence")):
        number = error.context_mark.line
        description = description if number == mark.line else context
    advice = next((advice for part, advice in ADVICE if part in description), "")
    if "'<scalar>'" in description:  # the quote that should have opened a text may have closed one above it
        if (opened := next((i for i in before if OPEN_QUOTE.fullmatch(lines[i])), None)) is not None:
            number, advice = opened, "the quote is not closed; close it"
    elif "'\\t'" not in problem and number == mark.line:
        for i in before[:LINES_BACK]:
            if missing := missing_space(lines[i]):
                return f"{i + 1}: {missing}"
    if "mapping values" in description and len(re.findall(r":(?:\s|$)", lines[number])) < 2:
        advice = UNEVEN
    if not advice:
        return f"{mark.line + 1}: {problem} (column {mark.column + 1})"
    return f"{number + 1}: `{shortened(lines[number])}`: {advice}"


def missing_space(text: str) -> str:
    """How to write text such as `lr:1e-4`; "" where no space is missing."""
    if match := NO_SPACE.fullmatch(text):
        return f"there is no space after the colon of {match['key']}; write {match['key']}: {shortened(match['value'])}"
    return ""


def shortened(text: str) -> str:
    """The text on one line of at most 80 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
