"""YAML without its traps: the shape of a recipe, with every scalar still the text that the person wrote.

PyYAML guesses types: `1e-4` becomes text, `no` False, `12:00:00` 43200, `010` 8, and a repeated key wins silently. Here
nothing is guessed. PyYAML's safe parser gives the nodes; `read_yaml` keeps mappings, lists and the text of scalars,
each with its file and line, and refuses what a recipe has no use for: tags, anchors and aliases, repeated keys, a
second document, deep nesting, a big file. What a text means is decided by the field that it is for (typed.py).
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from model.errors import UserError, closest
from train.recipe.yaml_slips import find_slip

MAX_BYTES = 256 * 1024  # a recipe has a few kilobytes
MAX_DEPTH = 8  # sections in sections, lists in them


@dataclass(frozen=True)
class Scalar:
    """One value, not interpreted: its text, whether it stood in quotes, and the file and line of it."""

    text: str
    quoted: bool
    where: str

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in ("", "~", "null")


@dataclass(frozen=True)
class Sequence:
    items: tuple["Tree", ...]
    where: str


@dataclass(frozen=True)
class Mapping:
    entries: dict[str, "Tree"]
    where: str


Tree = Scalar | Sequence | Mapping


def read_yaml_file(path: str | Path) -> Tree:
    """The one document in a UTF-8 file."""
    try:
        with open(path, "rb") as file:
            return read_yaml(file.read(MAX_BYTES + 1).decode(), str(path))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}{_nearest(Path(path))}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a recipe is a YAML file") from None


def _nearest(path: Path) -> str:
    """Which recipes there are, for a path that is none: the one most like it, or those near by."""
    folders = dict.fromkeys([path if path.is_dir() else path.parent, Path(), Path("recipes")])
    there = {str(file): file.stem for folder in folders for file in sorted(folder.glob("*.y*ml")) if file.is_file()}
    near = closest(path.stem, there.values())
    for name, stem in there.items():
        if near and near == stem:
            return f"; did you mean {name}?"
    shown = ", ".join([*there][:5])
    return f"; recipes here are {shown}" if shown else "; there is no YAML file here; give the path of a recipe"


def read_yaml(text: str, source: str) -> Tree:
    """The one document in `text`; UserErrors name `source` (a file, or "command line") and the line."""
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no recipe is")
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
    except yaml.YAMLError as error:  # a character that YAML has no place for
        raise UserError(_one_line(error, source, text)) from None
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise UserError(_one_line(error, source, text)) from None
    finally:
        loader.dispose()
    if node is None:
        return Scalar("", quoted=False, where=source)
    return _tree(node, source, f"{source}:1")


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


def _tree(node: yaml.Node, source: str, where: str) -> Tree:
    if isinstance(node, yaml.MappingNode):
        return Mapping(_entries(node, source), where)
    if isinstance(node, yaml.SequenceNode):
        return Sequence(tuple(_tree(item, source, _where(item, source)) for item in node.value), where)
    assert isinstance(node, yaml.ScalarNode)
    return Scalar(node.value, node.style is not None, where)


def _entries(node: yaml.MappingNode, source: str) -> dict[str, Tree]:
    entries: dict[str, Tree] = {}
    for key, value in node.value:
        where = _where(key, source)
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: a key is a plain word, not a list or a section; quote braces in text")
        if key.value in entries:
            raise UserError(f"{where}: {key.value} is given twice in its section; keep one")
        entries[key.value] = _tree(value, source, where)
    return entries


def _where(node: yaml.Node, source: str) -> str:
    return f"{source}:{node.start_mark.line + 1}"


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _one_line(error: yaml.YAMLError, source: str, text: str) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{source}: not a YAML text: {' '.join(str(error).split())}"
    if slip := find_slip(text.removeprefix("\ufeff"), error):
        return f"{source}:{slip[0]}: {slip[1]}"
    mark = error.problem_mark
    return f"{source}:{mark.line + 1}: {error.problem} (column {mark.column + 1})"
