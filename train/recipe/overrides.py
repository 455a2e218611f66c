"""Overrides of a recipe on the command line: `section.key=value`."""

from collections.abc import Sequence

from model.errors import UserError
from train.recipe.yaml import Mapping, Scalar, Tree, read_yaml

SOURCE = "command line"


def lay_over(recipe: Tree, overrides: Sequence[str]) -> Tree:
    """The recipe with every override's value in its place; of a repeated override the last counts.

    A value is the text as it is, to be read by the rules of its field; only a list may be written [a, b].
    """
    if isinstance(recipe, Scalar) and recipe.is_null:
        recipe = Mapping({}, recipe.where)
    if isinstance(recipe, Mapping):
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or key.startswith("-") or not all(key.split(".")):
                raise UserError(f"{SOURCE}: {override} is no override; write section.key=value, as in optim.lr=2e-4")
            value = read_yaml(text, SOURCE) if text.startswith("[") else Scalar(text, quoted=False, where=SOURCE)
            recipe = _with(recipe, key.split("."), value, key)
    return recipe


def _with(tree: Mapping, path: Sequence[str], value: Tree, key: str) -> Mapping:
    name, *rest = path
    if rest:
        inner = tree.entries.get(name, Mapping({}, SOURCE))
        if isinstance(inner, Scalar) and inner.is_null:
            inner = Mapping({}, inner.where)
        if not isinstance(inner, Mapping):
            raise UserError(f"{SOURCE}: unknown key {key}: {name} is a value at {inner.where}, not a section")
        value = _with(inner, rest, value, key)
    return Mapping({**tree.entries, name: value}, tree.where)
