"""YAML without its traps, and overrides: a recipe as plain values, each with the file and line it comes from.

PyYAML guesses types: `1e-4` becomes text, `no` False, `12:00:00` 43200, `010` 8, and a repeated key wins silently. Here
PyYAML only parses. A number is decimal without leading zeros; `true`, `false` and `null` are themselves; all else is
text. Refused is what a recipe has no use for: tags, anchors and aliases, repeated keys, a second document, deep
nesting, a big file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.paths import no_such
from model.errors import UserError

MAX_BYTES = 256 * 1024  # a recipe has a few kilobytes
MAX_DEPTH = 8  # sections in sections, lists in them
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
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
COMMAND_LINE = "command line"
Place = tuple[str | int, ...]
"""The keys and list positions that lead to a value: ("data", "train", 0)."""


@dataclass(frozen=True)
class Document:
    """A YAML or JSON document as it was read."""

    content: Any
    """A dict, tuple, str, int, float, bool or None."""
    lines: dict[Place, str]
    """Where values stand: "recipe.yaml:7"."""

    def line(self, place: Place) -> str:
        """The file and line of the value, or of the section that it would be in."""
        return next(self.lines[place[:depth]] for depth in range(len(place), -1, -1) if place[:depth] in self.lines)


class Quoted(str):
    """Text in quotes, which is never a number."""


class _Typed:
    """A number that remembers its text, in case it turns out to stand for text."""

    typed = ""

    def __str__(self) -> str:
        return self.typed


class TypedInt(_Typed, int): ...


class TypedFloat(_Typed, float): ...


def read_yaml_file(path: str | Path) -> Document:
    """The one document in a UTF-8 file."""
    try:
        with open(path, "rb") as file:
            return read_yaml(file.read(MAX_BYTES + 1).decode(), str(path))
    except FileNotFoundError:
        raise UserError(no_such(path, "give the path of a recipe")) from None
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}; give a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a recipe is a YAML file") from None


def read_yaml(text: str, source: str) -> Document:
    """The one document in `text`; UserErrors name `source` (a file, or "command line") and the line."""
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no recipe is")
    text = text.removeprefix("\ufeff")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{source}:{_slip(text, error)}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UserError(f"{source}: not a YAML text: {' '.join(str(error).split())}") from None
    document = Document({}, {(): source})
    return document if node is None else Document(_value(node, (), source, document.lines), document.lines)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, which stops at anchors, aliases, tags and depth before a node is built."""

    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refusal("anchors and aliases (& and *) are not taken; write the value out, or in quotes", event)
        if event.tag is not None:
            raise _refusal(f"the tag {event.tag} is not taken; write the plain value", event)
        if self.depth >= MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _value(node: yaml.Node, place: Place, source: str, lines: dict[Place, str]) -> Any:
    """A node's value; notes where it and the values in it stand, by the lines of their keys."""
    if not place or isinstance(place[-1], int):
        lines[place] = f"{source}:{node.start_mark.line + 1}" if place else f"{source}:1"
    if isinstance(node, yaml.SequenceNode):
        return tuple(_value(item, (*place, number), source, lines) for number, item in enumerate(node.value))
    if isinstance(node, yaml.ScalarNode):
        return Quoted(node.value) if node.style is not None else plain_scalar(node.value)
    section: dict[str, Any] = {}
    for key, value in node.value:
        line = f"{source}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{line}: a key is a plain word, not a list or a section; quote braces in text")
        if key.value in section:
            raise UserError(f"{line}: {key.value} is given twice in its section; keep one")
        lines[*place, key.value] = line
        section[key.value] = _value(value, (*place, key.value), source, lines)
    return section


def plain_scalar(text: str) -> Any:
    """The value of text without quotes."""
    if text in WORDS:
        return WORDS[text]
    if not NUMBER.fullmatch(text):
        return text
    number = TypedInt(text) if WHOLE.fullmatch(text) else TypedFloat(text)
    number.typed = text
    return number


def lay_over(recipe: Document, overrides: Sequence[str]) -> Document:
    """The recipe with the value of each override `section.key=value` in its place; of a repeated one the last counts. A
    value is read like one without quotes in the file, whatever characters are in it; a list may be written [a, b]."""
    document = Document({} if recipe.content is None else recipe.content, dict(recipe.lines))
    for override in overrides if isinstance(document.content, dict) else ():
        key, equals, text = override.partition("=")
        names = tuple(key.split("."))
        if not equals or key.startswith("-") or not all(names):
            raise UserError(f"{COMMAND_LINE}: {override} is no override; write section.key=value, as in optim.lr=2e-4")
        section = document.content
        for depth, name in enumerate(names[:-1], 1):
            if section.get(name) is None:
                section[name] = {}
                document.lines.setdefault(names[:depth], COMMAND_LINE)
            section = section[name]
            if not isinstance(section, dict):
                line = document.line(names[:depth])
                raise UserError(f"{COMMAND_LINE}: unknown key {key}: {name} is a value at {line}, not a section")
        section[names[-1]] = read_yaml(text, COMMAND_LINE).content if text.startswith("[") else plain_scalar(text)
        for place in [place for place in document.lines if place[: len(names)] == names]:
            del document.lines[place]
        document.lines[names] = COMMAND_LINE
    return document


def _slip(text: str, error: yaml.MarkedYAMLError) -> str:
    """`LINE: text there: what to do`, or PyYAML's own words where it is no common slip. PyYAML names the place where it
    could not go on, often a line or more after the slip, in terms of its grammar."""
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
