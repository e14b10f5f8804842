"""Settings as fields of a dataclass: what each means and may be, and how it is read from text and JSON."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Number:
    """A finite number in [low, high], or in (low, high]."""

    kind: type
    low: float
    high: float = math.inf
    open_low: bool = False

    def check(self, value: object) -> int | float:
        """Return the number; raise ValueError with what it must be."""
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        if whole or (self.kind is float and isinstance(value, float)):
            number = self.kind(value)
            if self.low <= number <= self.high and math.isfinite(number) and not (self.open_low and number == self.low):
                return number
        what = "a whole number" if self.kind is int else "a number"
        bounds = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        raise ValueError(f"must be {what} {bounds}" + (f" and at most {self.high:g}" if self.high < math.inf else ""))

    def parse(self, text: str) -> int | float:
        """Return the number that a text says; raise ValueError with what it must be."""
        try:
            return self.check(self.kind(text))
        except (ValueError, OverflowError):
            return self.check(None)  # says what it must be


@dataclass(frozen=True)
class About:
    """What a setting means, what it may be, and where `--help` names it: under `group`, or nowhere."""

    help: str
    number: Number | None = None
    choices: tuple[str, ...] = ()
    group: str = ""
    metavar: str = ""


def setting(
    default: T, help: str, number: Number | None = None, choices: tuple[str, ...] = (), group: str = "", metavar: str = ""
) -> T:  # fmt: skip
    """Declare a field of a dataclass with all that there is to say about it."""
    return field(default=default, metadata={"about": About(help, number, choices, group, metavar)})


# ---------------------------------------------------------------- from text and JSON


def declared(cls: type[Any]) -> Iterator[tuple[str, About, object]]:
    """Yield name, description and default of each setting that a dataclass declares."""
    for one in fields(cls):
        yield one.name, one.metadata["about"], one.default


def kind_of(cls: type[Any], name: str) -> tuple[type, bool, bool]:
    """Return a setting's type, whether it is a tuple of them, and whether it may be None."""
    hint = _hints(cls)[name]  # type: ignore[arg-type]  # a class can be hashed
    optional = get_origin(hint) is types.UnionType
    inner = next(arg for arg in get_args(hint) if arg is not types.NoneType) if optional else hint
    many = get_origin(inner) is tuple
    return get_args(inner)[0] if many else inner, many, optional


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def check(cls: type[Any], name: str, value: object) -> Any:
    """Return a setting's value as read from a file; raise ValueError with what it must be."""
    about = next(about for known, about, _ in declared(cls) if known == name)
    kind, many, optional = kind_of(cls, name)
    if value is None and optional:
        return None
    if many:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("must be a list of whole numbers")
        return tuple(_check_one(about, kind, item) for item in value)
    return _check_one(about, kind, value)


def _check_one(about: About, kind: type, value: object) -> object:
    if about.number is not None:
        return about.number.check(value)
    if not isinstance(value, kind):
        raise ValueError("must be true or false" if kind is bool else "must be a text")
    if about.choices and value not in about.choices:
        raise ValueError(f"must be one of {', '.join(about.choices)}")
    return value


def parse(cls: type[Any], name: str, text: str) -> Any:
    """Return the value that a text says; raise ValueError with what it must be."""
    about = next(about for known, about, _ in declared(cls) if known == name)
    kind, many, optional = kind_of(cls, name)
    if optional and text.lower() == "none":
        return None
    if kind is bool:
        return check(cls, name, {"true": True, "false": False}.get(text.lower()))
    if about.number is None:
        return check(cls, name, text)
    return tuple(map(about.number.parse, text.split(","))) if many else about.number.parse(text)
