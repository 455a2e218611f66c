"""Types of the recipe's values, checked by pydantic, whose errors become one line: file, key, value, what is expected.

The JSON schema shows the same types to editors."""

import re
from typing import Annotated, Any, Literal, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.paths import AS_TYPED, LocalPath, one_or_more
from model.encoder_layers import FORM as LAYER_FORM
from model.errors import UserError, hint
from train.recipe.yaml import NUMBER, Document, Place, Quoted, missing_space, plain_scalar, shortened

STRICT = ConfigDict(
    strict=True,  # no conversion between types
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    regex_engine="python-re",  # for look-ahead
    use_attribute_docstrings=True,
)
ADDRESS_FORM = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")
Model = TypeVar("Model", bound=BaseModel)
EXPECTED = {  # by pydantic's type of error, in place of its own words
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "too_short": "at least one",
    "too_long": "fewer values",
    "missing": "more values",
    "model_type": "a section of `key: value` lines",
    "greater_than_equal": "a number of at least {ge:g}",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "less_than": "a number below {lt:g}",
}


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
PromptOrChat = Annotated[
    str,
    _form(r"chat|(?![\s\S]*<speech>[\s\S]*<speech>)[\s\S]*<speech>[\s\S]*", "with <speech> in it once, or chat"),
    AS_TYPED,
]
Layer = Annotated[str, _form(LAYER_FORM.pattern, "such as 9, mean, mean:6-12, weighted:1-12"), AS_TYPED]
Address = Annotated[str, _form(ADDRESS_FORM.pattern, "such as 9400, 0.0.0.0:9400"), AS_TYPED]
WithoutPassword = Annotated[str, _form(r"(?![\s\S]*://[^/]*:[^/]*@)[\s\S]+", "not empty, without a password"), AS_TYPED]
Names = Annotated[tuple[Text, ...], Field(min_length=1), one_or_more(Text, 1)]
Paths = Annotated[tuple[LocalPath, ...], one_or_more(LocalPath)]
Directories = Annotated[tuple[LocalPath, ...], Field(min_length=1), one_or_more(LocalPath, 1)]
Auto = Literal["auto"]
"""Decided when the run begins, from the data and the device (train/recipe/auto.py)."""


def decided(value: int | Auto) -> int:
    """A value that may be `auto` in a recipe, once it has been decided."""
    assert not isinstance(value, str), "train/recipe/auto.py decides it before it is read"
    return value


def validated(model: type[Model], document: Document, what: str, prefix: str = "") -> Model:
    """The document as `model`, absent fields at their defaults. `what` the document is, and `prefix`, the dotted name
    of its section, are for errors. UserError, one line."""
    content = _with_sections(model, document.content)
    try:
        return model.model_validate(content)
    except ValidationError as invalid:
        errors: list[Any] = invalid.errors(include_url=False)
    error = min(errors, key=_rank)
    place: Place = ()
    value: Any = content
    for part in error["loc"]:  # it ends with the name of a union's member, or with a missing key
        if not (part in value if isinstance(value, dict) else isinstance(value, tuple) and part in range(len(value))):
            break
        place, value = (*place, part), value[part]
    line, key = document.line(place), _dotted(prefix, *place)
    if error["type"] == "extra_forbidden":
        raise UserError(f"{line}: unknown key {shortened(key)}{_advice_on_key(model, place)}")
    if error["type"] == "missing" and isinstance(value, dict):
        raise UserError(f"{line}: {_dotted(prefix, *error['loc'])} is missing; it must be given")
    if error["type"] == "value_error":
        cause = error["ctx"]["error"]
        raise UserError(f"{line}: {cause}" if isinstance(value, dict) else f"{line}: {key} is {_shown(value)}: {cause}")
    same = [other for other in errors if other["loc"][: len(place)] == place]
    expected = " or ".join(dict.fromkeys(map(_expected, same)))
    raise UserError(f"{line}: {key or what} is {_shown(value)}, expected {expected}{_advice_on_value(value, same)}")


def _rank(error: Any) -> int:
    """Unknown keys first, which may be why another is missing; rules between fields last."""
    between_fields = error["type"] == "value_error" and isinstance(error["input"], dict)
    return 3 if between_fields else {"extra_forbidden": 0, "missing": 2}.get(error["type"], 1)


def _with_sections(model: type[BaseModel], content: Any) -> Any:
    """The content with each absent or empty section as {}, unless it may be None: errors then name the key in it."""
    if not isinstance(content, dict):
        return content
    fields = {name: field for name, field in model.model_fields.items() if field.default is not None}
    sections = {name: field.annotation for name, field in fields.items() if _is_section(field.annotation)}
    given = {name: {} if content.get(name) is None else content[name] for name in sections}
    return content | {name: _with_sections(kind, given[name]) for name, kind in sections.items()}


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def dotted_names(model: Any, before: str = "") -> list[str]:
    """The dotted names of all values (not sections) of a model."""
    fields = {before + name: field.annotation for name, field in model.model_fields.items()}
    below = (dotted_names(kind, f"{name}.") if _is_section(kind) else [name] for name, kind in fields.items())
    return [key for keys in below for key in keys]


def _advice_on_key(model: Any, place: Place) -> str:
    *sections, name = map(str, place)
    if missing := missing_space(name):
        return f"; {missing}"
    if elsewhere := [key for key in dotted_names(model) if key.rpartition(".")[2] == name]:
        return f", did you mean {' or '.join(elsewhere)}?"
    for part in sections:
        model = model.model_fields[part].annotation
    return hint(name, model.model_fields) or f"; known are {', '.join(model.model_fields)}"


def _expected(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch":
        return f"text {FORMS[error['ctx']['pattern']]}"
    if error["type"] in EXPECTED:
        return EXPECTED[error["type"]].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Input should be ").replace("'", "")


def _advice_on_value(value: Any, errors: list[Any]) -> str:
    if not isinstance(value, str | float):
        return ""
    text, types = str(value), {error["type"] for error in errors}
    if isinstance(value, Quoted) and types & {"int_type", "float_type", "bool_type"}:
        return "; take the quotes away" if not isinstance(plain_scalar(value), str) else ""
    if isinstance(value, str) and re.fullmatch("[-+]?0[0-9]+", text):
        return "; write it without leading zeros (YAML reads 010 as 8)"
    plain = re.sub("[_,]", "", text)
    if "int_type" in types and NUMBER.fullmatch(plain) and abs(number := float(plain)) < 1e15 and number.is_integer():
        return f"; write {number:.0f}"
    if "model_type" in types:
        return f"; {missing}" if (missing := missing_space(text)) else ""
    if text == "auto":
        return "; leave the key out for its default"
    words = [error["ctx"]["expected"] for error in errors if error["type"] == "literal_error"]
    return hint(text, re.findall("'([^']*)'", "".join(words)))


def _shown(value: Any) -> str:
    if isinstance(value, tuple | dict):
        return f"a {'list' if isinstance(value, tuple) else 'section'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    text = shortened(str(value))
    return repr(text) if isinstance(value, Quoted) else text


def _dotted(*place: str | int) -> str:
    """optim.betas[1] of ("optim", "betas", 1)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
