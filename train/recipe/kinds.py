"""Types of the recipe's values, checked by pydantic and shown to editors by the JSON schema."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data_prep.paths import AS_TYPED, LocalPath, one_or_more
from model.encoder_layers import FORM as LAYER_FORM

STRICT = ConfigDict(
    strict=True,  # no conversion between types
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    regex_engine="python-re",  # for look-ahead
    use_attribute_docstrings=True,
)
ADDRESS_FORM = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")


class Section(BaseModel):
    """A section of the recipe: immutable, with no unknown keys and no value of another type."""

    model_config = STRICT


FORMS: dict[str, str] = {}
"""The patterns of texts in words, for errors."""


def _form(form: str, in_words: str) -> Any:
    """All of a text matches the regular expression `form`; errors and editors (patternErrorMessage) show `in_words`."""
    pattern = rf"^(?:{form})$(?!\n)"
    FORMS[pattern] = in_words
    return Field(pattern=pattern, json_schema_extra={"patternErrorMessage": in_words})


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1), AS_TYPED]
Prompt = Annotated[
    str, _form(r"(?![\s\S]*<speech>[\s\S]*<speech>)[\s\S]*<speech>[\s\S]*", "with <speech> in it once"), AS_TYPED
]
Layer = Annotated[str, _form(LAYER_FORM.pattern, "such as 9, mean, mean:6-12"), AS_TYPED]
Address = Annotated[str, _form(ADDRESS_FORM.pattern, "such as 9400, 0.0.0.0:9400"), AS_TYPED]
WithoutPassword = Annotated[str, _form(r"(?![\s\S]*://[^/]*:[^/]*@)[\s\S]+", "not empty, without a password"), AS_TYPED]
Paths = Annotated[tuple[LocalPath, ...], one_or_more(LocalPath)]
Directories = Annotated[tuple[LocalPath, ...], Field(min_length=1), one_or_more(LocalPath, 1)]
Auto = Literal["auto"]
"""Decided when the run begins, from the data and the device (train/recipe/auto.py)."""


def decided(value: int | Auto) -> int:
    """A value that may be `auto` in a recipe, once it has been decided."""
    assert not isinstance(value, str), "train/recipe/auto.py decides it before it is read"
    return value
