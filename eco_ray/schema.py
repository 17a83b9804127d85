"""What the files that people write have in common: strict models, and errors with value, limit and cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from eco_ray.errors import UsageError
from eco_ray.times import MAX_DURATION_S, When, compact_duration, parse_duration, parse_when

#: most errors that one message lists
MAX_ERRORS = 10
Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A mapping of a file: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that was probably meant, or None."""
    folded = {_fold(a): a for a in allowed}
    short = _fold(word)
    # a part of a word (gpu for num_gpus) says more than likeness of letters (gpu and pue)
    parts = [whole for whole in folded if len(short) > 2 and short in whole]
    close = parts or difflib.get_close_matches(short, folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def unknown(kind: str, word: str, allowed: Iterable[str]) -> str:
    """`unknown key 'num_cpu'; did you mean 'num_cpus'? Allowed: num_cpus, num_gpus` (kind: "key")."""
    words = list(allowed)
    meant = nearest(word, words)
    guess = f"; did you mean {meant!r}?" if meant else "."
    return f"unknown {kind} {_shown(word)}{guess} Allowed: {', '.join(words)}"


def slug(text: str) -> str:
    """The nearest valid name: lower case letters, digits and inner hyphens, at most 63."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "job"


def _fold(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _shown(value: object) -> str:
    shown = "nothing (null)" if value is None else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


# --- types of fields ---------------------------------------------------------------------------------------------


def _raising_value_error(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Pydantic adds the key to ValueErrors only; UsageError would lose it."""

    def validate(value: Any) -> Any:
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    return validate


def _duration(value: Any) -> float:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise UsageError(f"{_shown(value)} is not a duration; write for example 90s, 20m, 1h30m, 2d or PT3H")
    return parse_duration(value)


def _when(value: Any) -> When:
    if isinstance(value, When):
        return value
    if not isinstance(value, str):
        raise UsageError(f"{_shown(value)} is not a time; write an instant (2026-11-22T08:00Z) or a duration (6h)")
    return parse_when(value)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number; give a number")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError(
            f"{_shown(value)} is not a name: lower case letters, digits and inner hyphens, at most 63; "
            f"for example {slug(value)!r}"
        )
    return value


def _label(value: str) -> str:
    # Ray's rule for label values, which zones become
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value):
        raise ValueError(
            f"{_shown(value)}: use letters, digits and inner - _ . (at most 63), for example DE or US-CAL-CISO"
        )
    return value


def between(low_s: float, high_s: float = MAX_DURATION_S) -> AfterValidator:
    """Limits of a duration [s], told in the form that people write."""

    def validate(value_s: float) -> float:
        if not low_s <= value_s <= high_s:
            limits = f"{compact_duration(low_s)} to {compact_duration(high_s)}"
            raise ValueError(f"{compact_duration(value_s)} is outside {limits}; give a duration between them")
        return value_s

    return AfterValidator(validate)


#: a number; true and false are none
Amount = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
#: seconds, written with a unit
Duration = Annotated[float, BeforeValidator(_raising_value_error(_duration))]
PositiveDuration = Annotated[Duration, between(0.001)]
#: an instant, or a duration from the submission on
Moment = Annotated[When, BeforeValidator(_raising_value_error(_when))]
#: a DNS label
Name = Annotated[str, AfterValidator(_name)]
#: a zone or a tenant
Label = Annotated[str, AfterValidator(_label)]


# --- from pydantic's errors to sentences -------------------------------------------------------------------------


def check(
    model: type[M],
    data: Mapping[str, Any],
    where: str,
    line_of: Callable[[Path], int | None] = lambda _path: None,
    labels: Mapping[Path, str] | None = None,
) -> M:
    """Validate data, or raise UsageError with one line per error.

    `where` names the file, `line_of` finds the line of a path of keys, `labels` names paths that come from elsewhere
    (an option, a setting in the environment).
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as failure:
        raise UsageError(explain(model, failure, where, line_of, labels)) from None


def explain(
    model: type[BaseModel],
    failure: ValidationError,
    where: str,
    line_of: Callable[[Path], int | None] = lambda _path: None,
    labels: Mapping[Path, str] | None = None,
) -> str:
    """The errors of a failed validation, one line each."""
    errors = failure.errors(include_url=False, include_context=True)
    lines = [_line(model, error, where, line_of, labels or {}) for error in errors[:MAX_ERRORS]]
    if len(errors) > MAX_ERRORS:
        lines.append(f"... and {len(errors) - MAX_ERRORS} more")
    return "\n".join(lines)


def _line(
    model: type[BaseModel],
    error: ErrorDetails,
    where: str,
    line_of: Callable[[Path], int | None],
    labels: Mapping[Path, str],
) -> str:
    path = error["loc"]
    sentence = _sentence(model, error)
    for length in range(len(path), 0, -1):
        if path[:length] in labels:
            rest = path_text(path[length:])
            return f"{labels[path[:length]]}{f' ({rest})' if rest else ''}: {sentence}"
    line = line_of(path)
    place = where if line is None else f"{where}, line {line}"
    return f"{place}: {path_text(path)}: {sentence}" if path else f"{place}: {sentence}"


def path_text(path: Path) -> str:
    """`nodes[2].power.idle_w`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    kind, path, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(model, path)
    if kind == "value_error":
        return str(context["error"])
    value = _shown(error["input"])
    if kind in _SHAPES:
        return _wrong_shape(_SHAPES[kind], value, _model_at(model, path))
    limits = _limits(_field_at(model, path))
    if kind in _BEYOND:
        return f"{value} is {_BEYOND[kind]} {next(iter(context.values())):g}; give {limits}"
    if kind in _NUMBERS:
        return f"{value} is not {_NUMBERS[kind]}; give {limits or _NUMBERS[kind]}"
    return _OTHERS.get(kind, "{value}: {message}").format(**{**context, "value": value, "message": error["msg"]})


def _wrong_shape(shape: str, value: str, inner: type[BaseModel] | None) -> str:
    keys = f" with keys from {', '.join(_keys(inner))}" if inner else ""
    quotes = " (put it in quotes)" if shape == "text" else ""
    return f"{value} is not {shape}; give {shape}{keys}{quotes}"


_OTHERS = {
    "missing": "is missing; add it",
    "literal_error": "{value} is not one of the words it knows; give {expected}",
    "string_too_short": "{value} is empty; give a text, or leave the key out",
    "string_too_long": "a text above {max_length} characters; shorten it",
    "too_short": "{actual_length} entries are below {min_length}; add one",
    "too_long": "{actual_length} entries are above {max_length}; remove some",
}
_BEYOND = {
    "greater_than": "not above",
    "greater_than_equal": "below",
    "less_than": "not below",
    "less_than_equal": "above",
}
_SHAPES = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "path_type": "a path",
} | dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "a mapping")
_NUMBERS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of a sensible size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}


def _unknown_key(model: type[BaseModel], path: Path) -> str:
    key = str(path[-1])
    parent = _model_at(model, path[:-1])
    allowed = _keys(parent) if parent else []
    if key not in allowed and nearest(key, allowed) is None:
        # perhaps the right key at the wrong depth
        homes = [home for home in _all_paths(model) if home.rpartition(".")[2] == key]
        if homes:
            return f"unknown key {key!r} here; did you mean {' or '.join(homes)}? Allowed here: {', '.join(allowed)}"
    return unknown("key", key, allowed)


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _all_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        inner = _inner_model(field.annotation)
        if inner:
            yield from _all_paths(inner, f"{path}.")


def _field_at(model: type[BaseModel], path: Path) -> FieldInfo | None:
    current: type[BaseModel] | None = model
    field: FieldInfo | None = None
    for part in path:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        field = next((f for name, f in current.model_fields.items() if part in (f.alias, name)), None)
        current = _inner_model(field.annotation) if field else None
    return field


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    if not any(isinstance(part, str) for part in path):
        return model
    field = _field_at(model, path)
    return _inner_model(field.annotation) if field else None


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner_model(arg))), None)


def _limits(field: FieldInfo | None) -> str:
    """`a whole number from 0 to 1000`."""
    if field is None:
        return ""
    whole = field.annotation is int or int in get_args(field.annotation)
    words = ["a whole number" if whole else "a number"]
    lower = next((m for m in field.metadata if isinstance(m, Gt | Ge)), None)
    upper = next((m for m in field.metadata if isinstance(m, Lt | Le)), None)
    if isinstance(lower, Ge) and isinstance(upper, Le):
        return f"{words[0]} from {lower.ge:g} to {upper.le:g}"
    if lower is not None:
        words.append(f"above {lower.gt}" if isinstance(lower, Gt) else f"of at least {lower.ge}")
    if upper is not None:
        words.append(f"below {upper.lt}" if isinstance(upper, Lt) else f"at most {upper.le}")
    return words[0] + " " + " and ".join(words[1:]) if words[1:] else words[0]
