"""What a command says: results to standard output, all else to standard error."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T", bound=Sized)


def say(text: str) -> None:
    """Print a line of the result."""
    print(text)


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def tracked(portions: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Hand portions on, and show on a terminal how many of ``total`` members have been dealt with.

    A portion counts once the next one is asked for.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        for portion in portions:
            yield portion
            progress.advance(task, len(portion))
