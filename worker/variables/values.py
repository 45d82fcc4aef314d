"""Values of variables, and how they turn into text and numbers."""

import json
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from worker.exchange import Exchange

Value = str | bool | int | float | list[Any] | dict[str, Any]
"""Nearly all are text; fields of a body are what JSON holds."""

Accessor = Callable[["Exchange"], Value | None]
"""Returns the value a variable has in an exchange; None when it is missing."""


def text_of(data: bytes) -> str:
    """Decode what came from outside; bytes that are not UTF-8 are kept, so that equal texts had equal bytes."""
    return data.decode("utf-8", "surrogateescape")


def shown(value: Value) -> str:
    """Write a value as text, as templates and hash keys do."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, in the fields of a form
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def number_of(value: Value | None) -> float | None:
    """Return the number that a value is or spells, decimal or with ``0x``; None for anything else."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return _hexadecimal(value)
        if isfinite(number) and "_" not in value and value.isascii():
            return number
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _hexadecimal(text: str) -> float | None:
    stripped = text.strip().lower()
    if not stripped.removeprefix("-").startswith("0x") or "_" in stripped:
        return None
    try:
        return float(int(stripped, 16))
    except (ValueError, OverflowError):
        return None
