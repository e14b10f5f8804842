"""Settings as fields of a dataclass: meaning and legal values of each, and how text and files are read."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import inspect

T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """What a setting means, its choices if it is a text, and its group in `--help`; without one `--help` omits it."""

    help: str
    choices: Collection[str] = ()
    group: str = ""
    metavar: str = ""


def setting(default: T, help: str, choices: Collection[str] = (), group: str = "", metavar: str = "") -> T:
    """Declare a field of a dataclass with its description."""
    return field(default=default, metadata={"about": About(help, choices, group, metavar)})


def declared(cls: Any) -> Iterator[tuple[str, About, object]]:
    """Yield name, description and default of each setting that a dataclass declares."""
    for one in fields(cls):
        if "about" in one.metadata:
            yield one.name, one.metadata["about"], one.default


@functools.cache
def types(cls: Any) -> dict[str, Any]:
    """Return the type of each setting, with its bounds."""
    return get_type_hints(cls, include_extras=True)


def is_list(cls: Any, name: str) -> bool:
    """Return whether a setting holds several values."""
    return isinstance(_plain(inspect.type_info(types(cls)[name])), inspect.VarTupleType)


# ---------------------------------------------------------------- from text and from files


def check(cls: Any, name: str, value: object) -> Any:
    """Return a setting's value that was read from a file; the ValueError for a wrong one says what it must be."""
    value = convert(value, types(cls)[name])
    choices = cls.__dataclass_fields__[name].metadata["about"].choices
    if choices and value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return value


def parse(cls: Any, name: str, text: str) -> Any:
    """Return a setting's value for a text; the ValueError for a wrong text says what the value must be."""
    kind = types(cls)[name]
    value = convert(text.split(",") if is_list(cls, name) else text, kind, strict=False)
    if value is None:  # of "null"
        raise ValueError(f"must be {in_words(inspect.type_info(kind))}")
    return check(cls, name, value)


def takes_none(cls: Any, name: str) -> bool:
    """Return whether a setting can be without a value."""
    return isinstance(inspect.type_info(types(cls)[name]), inspect.UnionType)


def convert(value: object, kind: Any, strict: bool = True) -> Any:
    """Return a value in that type, read from a text unless `strict`; the ValueError says what it must be."""
    try:
        found = msgspec.convert(value, kind, strict=strict)
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError
    except Exception:  # a checkpoint's entry may be any object, with any error
        raise ValueError(f"must be {in_words(inspect.type_info(kind))}") from None
    return found


def in_words(info: inspect.Type) -> str:
    """Return a description of the values of a type, or of each value of a list."""
    info = _plain(info)
    if isinstance(info, inspect.VarTupleType):
        return in_words(info.item_type)
    if not isinstance(info, inspect.IntType | inspect.FloatType):
        return "true or false" if isinstance(info, inspect.BoolType) else "a text"
    what = "a whole number" if isinstance(info, inspect.IntType) else "a number"
    bounds = {"above": info.gt, "at least": info.ge, "and at most": info.le}
    return what + "".join(f" {word} {bound:.10g}" for word, bound in bounds.items() if bound is not None)


def _plain(info: inspect.Type) -> inspect.Type:
    """Return the other type of an optional type, or the type itself."""
    if isinstance(info, inspect.UnionType):
        return next(one for one in info.types if not isinstance(one, inspect.NoneType))
    return info
