"""Options as data: a field of a frozen dataclass with its help line and its bounds, and how text becomes its value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from offlinerlkit_damo.errors import UserError, unknown


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    algos: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its help line and its admissible values (`above` excludes the bound, `least` and `most` include it).

    `algos` names the algorithms that read the option; empty means all.
    """
    metadata = {"help": help, "choices": choices, "above": above, "least": least, "most": most, "algos": algos}
    return dataclasses.field(default=default, metadata=metadata)


def validate(config: Any) -> None:
    """Raise UserError for the first field of a dataclass of options that is outside its bounds."""
    for field in dataclasses.fields(config):
        value, rules = getattr(config, field.name), field.metadata
        if not rules or value is None:
            continue
        if rules["choices"] and value not in rules["choices"]:
            raise unknown(field.name, value, rules["choices"])
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str):
                continue
            if not math.isfinite(number):
                raise UserError(f"{field.name} is {number}; it must be finite")
            if number <= rules["above"]:
                raise UserError(f"{field.name} is {number}; it must be above {rules['above']}")
            if number < rules["least"]:
                raise UserError(f"{field.name} is {number}; it must be at least {rules['least']}")
            if number > rules["most"]:
                raise UserError(f"{field.name} is {number}; it must be at most {rules['most']}")


def _parse_scalar(kind: type, value: Any) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise ValueError
    if kind is int:
        number = float(value) if not isinstance(value, str) or "e" in value.lower() else int(value)
        if isinstance(value, bool) or number != int(number):
            raise ValueError
        return int(number)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    return str(value)


def coerce(name: str, kind: Any, value: Any) -> Any:
    """`value` as a `kind`, from YAML or from text ("none" is None, lists for tuples); UserError naming the option where it is none."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        kind = arguments[0]
    try:
        if typing.get_origin(kind) is tuple:
            items = value if isinstance(value, (list, tuple)) else [value]
            return tuple(_parse_scalar(arguments[0], item) for item in items)
        if value is None or isinstance(value, (list, tuple, dict)):
            raise ValueError
        return _parse_scalar(kind, value)
    except (ValueError, TypeError, OverflowError):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        wanted = words.get(kind, "a list of numbers")
        raise UserError(f"{name} is {value!r}; it must be {wanted}") from None
