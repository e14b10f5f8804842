"""The parser of all commands: argparse, with one-line errors that quote the input and suggest the nearest name."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

from msgspec import Meta

from training.fields import convert
from utils import VERSION, mend_streams

MEANT = {  # flags of other programs
    "--gpus": "--gpu (several: torchrun --nproc-per-node=N main.py)",
    "--loss": "--head and --weight-cent",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with a suggestion for a misspelled flag."""

    def __init__(self, **more: Any) -> None:
        mend_streams()
        super().__init__(**more)
        if self.add_help:
            self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; end with a suggestion if one is unknown."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self.unknown(unknown[0]))
        return parsed

    def unknown(self, argument: str) -> str:
        """Return the error message for an argument that this command does not know."""
        word = argument.split("=")[0]
        return f"unrecognized arguments: {argument}{nearest(word, self._option_string_actions)}"

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a suggestion for a word that is close to one of the names, otherwise an empty text."""
    if word in MEANT:
        return f"; did you mean {MEANT[word]}?"
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def argument(parse_text: Callable[[str], Any], names: Iterable[str] = ()) -> Callable[[str], Any]:
    """Return an argparse type whose error quotes the input, says what it must be, and suggests the nearest name."""

    def parse_argument(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}{nearest(text, names)}") from None

    return parse_argument


def folder(text: str) -> Path:
    """Return a folder's path, which may be missing; "", as an unset variable of a shell gives it, is none."""
    if not text:
        raise argparse.ArgumentTypeError("names no folder")
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # such as a name that is too long
        raise argparse.ArgumentTypeError(f"{text!r}: {error.strerror}") from None
    return Path(text)


def one_of(names: Iterable[str]) -> dict[str, Any]:
    """Return the options of an argument that is one of the names: like argparse's choices, but with a suggestion."""
    names = tuple(names)

    def parse_name(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return {"type": argument(parse_name, names), "metavar": f"{{{','.join(names)}}}"}


def number(kind: type, low: float, high: float | None = None) -> Callable[[str], Any]:
    """Return an argparse type: a finite number from `low` to `high`."""
    return of_type(Annotated[kind, Meta(ge=low, le=high)])


def of_type(kind: Any) -> Callable[[str], Any]:
    """Return an argparse type for a type with bounds."""
    return argument(partial(convert, kind=kind, strict=False))
