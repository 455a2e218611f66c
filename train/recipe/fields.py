"""From the texts of a recipe to frozen dataclasses: the field's type decides what a text means, or refuses it.

Kinds of field: bool, int, float, str, Literal, `X | None` (null), `X | Literal["auto"]`, `tuple[X, ...]` and
`tuple[X, X]` (lists), a dataclass (a section), and Annotated with a `Rule` that narrows any of them, or with
`PathRule`: a path, whose `~` and `$NAME` are expanded here. Each refusal names where, key, value and what was expected.
"""

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data_prep.paths import PathRule, expand_path
from model.errors import UserError, hint
from train.recipe.yaml import Mapping, Scalar, Sequence, Tree
from train.recipe.yaml_slips import missing_space

T = TypeVar("T")
UNIONS = (types.UnionType, Union)  # X | None is the one or the other, as X is a class or Annotated
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must hold beyond its type, and how to say so: `Annotated[int, Rule("at least 1", ...)]`."""

    says: str
    holds: Callable[[Any], bool]


def section(tree: Tree, cls: type[T], key: str = "", root: type | None = None) -> T:
    """`cls` filled from `tree`; absent fields keep their defaults.

    `key` is the dotted name of the section itself; `root` is the type of the whole, to say where a misplaced key lives.
    """
    root = root or cls
    if isinstance(tree, Scalar) and tree.is_null:
        tree = Mapping({}, tree.where)
    if not isinstance(tree, Mapping):
        advice = missing_space(tree.text) if isinstance(tree, Scalar) else ""
        raise _refused(tree, key or "the recipe", "a section of `key: value` lines", advice and f"; {advice}")
    kinds = get_type_hints(cls, include_extras=True)
    for name, value in tree.entries.items():
        if name not in kinds:
            elsewhere = [place for place in dotted_names(root) if place.split(".")[-1] == name]
            advice = f", did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(name, kinds)
            if slip := missing_space(name):
                advice = f"; {slip}"
            raise UserError(f"{value.where}: unknown key {_shortened(_dotted(key, name))}{advice}")
    values = {name: _value(value, kinds[name], _dotted(key, name), root) for name, value in tree.entries.items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name, kind = _dotted(key, field.name), kinds[field.name]
        if field.name in values:
            continue
        if dataclasses.is_dataclass(kind):
            values[field.name] = section(Mapping({}, tree.where), kind, name, root)  # type: ignore[arg-type]
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{tree.where}: {name} is missing; it must be given: {describe(kind)}")
    try:
        return cls(**values)
    except UserError as error:  # a rule between fields, which knows no file
        raise UserError(f"{tree.where}: {error}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown `word`: the nearest of `known`, or all of them."""
    known = list(known)
    return hint(word, known) or f"; known are {', '.join(known)}"


def describe(kind: Any) -> str:
    """What a field of this type takes, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{describe(inner[0])} ({inner[1].says})"
    if origin in UNIONS:
        return " or ".join("null" if member is types.NoneType else describe(member) for member in inner)
    if origin is Literal:
        return inner[0] if len(inner) == 1 else f"one of {', '.join(inner)}"
    if origin is tuple:
        return f"a list of {describe(inner[0])}" if Ellipsis in inner else f"a list of {len(inner)} numbers"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def _value(tree: Tree, kind: Any, key: str, root: type, expected: str = "") -> Any:
    if dataclasses.is_dataclass(kind):
        return section(tree, kind, key, root)  # type: ignore[arg-type]
    origin, inner = get_origin(kind), get_args(kind)
    expected = expected or describe(kind)
    if origin is Annotated:
        value = _value(tree, inner[0], key, root, expected)
        if isinstance(inner[1], PathRule):
            value = _path(tree, key, value)
        if not inner[1].holds(value):
            raise _refused(tree, key, expected)
        return value
    if origin in UNIONS:
        if isinstance(tree, Scalar) and tree.is_null:
            if types.NoneType in inner:
                return None
            raise _refused(tree, key, expected)
        words = [word for member in inner if get_origin(member) is Literal for word in get_args(member)]
        if isinstance(tree, Scalar) and tree.text in words:
            return tree.text
        return _value(tree, inner[0], key, root, expected)
    if origin is tuple:
        return _items(tree, inner, key, root, expected)
    if not isinstance(tree, Scalar) or tree.is_null:
        raise _refused(tree, key, expected)
    if origin is Literal and tree.text not in inner:
        raise _refused(tree, key, expected, hint(tree.text, inner))
    return tree.text if kind is str or origin is Literal else _number_or_bool(tree, kind, key, expected)


def _path(tree: Tree, key: str, text: str) -> str:
    try:
        return expand_path(text)
    except UserError as error:
        raise UserError(f"{tree.where}: {key} is {_shortened(text)}: {error}") from None


def _items(tree: Tree, inner: tuple[Any, ...], key: str, root: type, expected: str) -> tuple[Any, ...]:
    if Ellipsis in inner and isinstance(tree, Scalar) and not tree.is_null:
        tree = Sequence((tree,), tree.where)  # one directory need not be written as a list
    if not isinstance(tree, Sequence) or (Ellipsis not in inner and len(tree.items) != len(inner)):
        raise _refused(tree, key, expected)
    return tuple(_value(item, inner[0], f"{key}[{i}]", root) for i, item in enumerate(tree.items))


def _number_or_bool(tree: Scalar, kind: type, key: str, expected: str) -> bool | int | float:
    if tree.quoted:
        raise _refused(tree, key, expected, "; take the quotes away")
    if kind is bool:
        if tree.text not in ("true", "false"):
            raise _refused(tree, key, expected)
        return tree.text == "true"
    if not (WHOLE if kind is int else NUMBER).fullmatch(tree.text):
        raise _refused(tree, key, expected, _number_advice(tree.text))
    number = kind(tree.text)
    if not math.isfinite(number):
        raise _refused(tree, key, expected, ", finite")
    return number


def _number_advice(text: str) -> str:
    if re.fullmatch(r"[-+]?0[0-9]+", text):
        return "; write it without leading zeros (YAML reads 010 as 8)"
    plain = text.replace("_", "").replace(",", "")
    if NUMBER.fullmatch(plain) and abs(number := float(plain)) < 1e15 and number.is_integer():
        return f"; write {int(number)}"
    return ""


def _refused(tree: Tree, key: str, expected: str, advice: str = "") -> UserError:
    if isinstance(tree, Scalar):
        shown = "empty" if tree.is_null else repr(_shortened(tree.text)) if tree.quoted else _shortened(tree.text)
    else:
        shown = "a list" if isinstance(tree, Sequence) else "a section"
        shown += f" of {len(tree.items if isinstance(tree, Sequence) else tree.entries)}"
    return UserError(f"{tree.where}: {key} is {shown}, expected {expected}{advice}")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def dotted_names(cls: Any, key: str = "") -> Iterator[str]:
    """The dotted names of all values (not sections) below a dataclass."""
    for name, kind in get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from dotted_names(kind, _dotted(key, name))
        else:
            yield _dotted(key, name)


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
