"""The parser of all commands: argparse with errors of one line that say what was typed and what may have been meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, NoReturn

from msgspec import Meta

from training.fields import convert
from utils import VERSION

MEANT = {  # what has no flag of its own here
    "--gpus": "--gpu; several GPUs: torchrun --nproc-per-node=N main.py",
    "--loss": "--head and --weight-cent",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the flag that may have been meant."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        if self.add_help:
            self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; end with a suggestion where one is unknown."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self.unknown(unknown[0]))
        return parsed

    def unknown(self, argument: str) -> str:
        """Return what to say of an argument that this command does not know."""
        word = argument.split("=")[0]
        return f"unrecognized arguments: {argument}{nearest(word, self._option_string_actions)}"

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print for any console: what it has no letter for becomes a question mark."""
        file = file or sys.stderr
        encoding = getattr(file, "encoding", None) or "utf-8"
        file.write(message.encode(encoding, "replace").decode(encoding))


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a suggestion for a word that is close to one of the names, or nothing."""
    if word in MEANT:
        return f"; did you mean {MEANT[word]}?"
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def argument(parse_text: Callable[[str], Any], names: Iterable[str] = ()) -> Callable[[str], Any]:
    """Return an argparse type whose error says what was typed, what it must be, and which name is close."""

    def parse_argument(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}{nearest(text, names)}") from None

    return parse_argument


def one_of(names: Iterable[str]) -> dict[str, Any]:
    """Return what makes an argument one of the names: argparse's choices, with a suggestion in the error."""
    names = tuple(names)

    def parse_name(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return {"type": argument(parse_name, names), "metavar": f"{{{','.join(names)}}}"}


def number(kind: type, low: float, high: float | None = None) -> Callable[[str], Any]:
    """Return an argparse type: a finite number of at least `low`, and at most `high`."""
    return of_type(Annotated[kind, Meta(ge=low, le=high)])


def of_type(kind: Any) -> Callable[[str], Any]:
    """Return an argparse type for a type with its bounds."""
    return argument(partial(convert, kind=kind, strict=False))
