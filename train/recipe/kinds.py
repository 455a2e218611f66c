"""The kinds of value that a recipe's fields take, each a type with the rule that narrows it (typed.py reads them)."""

import re
from typing import Annotated, Literal

from model.encoder_layers import FORM as LAYER_FORM
from train.recipe.fields import Rule

ADDRESS_FORM = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")

AT_LEAST_0 = Rule("at least 0", lambda x: x >= 0)
SHARE = Rule("from 0 up to but not 1", lambda x: 0 <= x < 1)
RATIO = Rule("from 0 to 1", lambda x: 0 <= x <= 1)
ONE_SPEECH = Rule("with <speech> in it once", lambda x: x.count("<speech>") == 1)
LAYER = Rule("such as 9, mean, mean:6-12", lambda x: LAYER_FORM.fullmatch(x) is not None)
ADDRESS = Rule("such as 9400, 0.0.0.0:9400", lambda x: ADDRESS_FORM.fullmatch(x) is not None)
NO_PASSWORD = Rule("not empty, without a password", lambda x: len(x) > 0 and re.search("://[^/]*:[^/]*@", x) is None)
DIRECTORIES = Rule("at least one", lambda x: len(x) > 0)

Count = Annotated[int, Rule("at least 1", lambda x: x >= 1)]
Positive = Annotated[float, Rule("above 0", lambda x: x > 0)]
Text = Annotated[str, Rule("not empty", lambda x: len(x) > 0)]
Auto = Literal["auto"]
"""Decided when the run begins, from the data and the device (train/recipe/auto.py)."""


def decided(value: int | Auto) -> int:
    """A value that may be `auto` in a recipe, once it has been decided."""
    assert not isinstance(value, str), "train/recipe/auto.py decides it before it is read"
    return value
