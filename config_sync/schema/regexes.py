"""Regular expressions of the configuration, guarded against those that take for ever.

The library ``regex`` reads nearly all of PCRE (atomic groups, possessive quantifiers, recursion), which ``re``
does not, and can stop a search after some time. To watch the clock makes a short search several times dearer. So a
pattern is looked at once: how far can its search get out of hand with the length of the subject? Up to the length at
which it cannot, the search runs free; beyond, it is watched.
"""

import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import regex

from config_sync.errors import InvalidResource

LONGEST_PATTERN = 4096
SEARCH_TIMEOUT = 0.002  # seconds
# Steps of the matcher that need no watching: some hundred microseconds (benchmarks/bench_expressions.py).
FREE_STEPS = 50_000
# The library unrolls counted repeats: {1000} inside {1000} takes a second to compile.
LARGEST_EXPANSION = 10_000

_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")
_HARMLESS_GROUP = re.compile(r"\(\?(?:[:=!>|]|<[=!]|P?<\w+>|[imsa]+[:)])")


class Regex:
    """A compiled pattern."""

    __slots__ = ("_free_length", "_search", "_sub", "pattern")

    def __init__(self, pattern: str, is_case_ignored: bool = False) -> None:
        """Compile a pattern; classes of characters and the case of letters are those of ASCII, as in PCRE.

        Raises:
            ValueError: it is no regular expression, or too large when its repeats are unrolled.
        """
        if len(pattern) > LONGEST_PATTERN:
            raise ValueError(f"a regular expression may have {LONGEST_PATTERN} characters")
        effort = estimate(pattern)
        if effort.expansion > LARGEST_EXPANSION:
            raise ValueError(f"its counted repeats make it longer than {LARGEST_EXPANSION} characters")
        self.pattern = pattern
        self._free_length = effort.free_length()
        flags = regex.ASCII | (regex.IGNORECASE if is_case_ignored else 0)
        try:
            with warnings.catch_warnings(action="ignore"):
                compiled = regex.compile(pattern, flags)
        except (regex.error, OverflowError, RecursionError, MemoryError) as error:
            raise ValueError(f"is no regular expression: {error}") from error
        self._search = compiled.search
        self._sub = compiled.sub

    def matches(self, subject: str) -> bool:
        """Tell whether it is found anywhere in a text.

        Raises:
            TimeoutError: the search took longer than ``SEARCH_TIMEOUT``.
        """
        return self.search(subject) is not None

    def search(self, subject: str) -> "regex.Match[str] | None":
        """Return where it is first found in a text; None when it is nowhere.

        Raises:
            TimeoutError: as ``matches``.
        """
        if len(subject) <= self._free_length:
            return self._search(subject)
        return self._search(subject, timeout=SEARCH_TIMEOUT)

    def replace(
        self, subject: str, new: "Callable[[regex.Match[str]], str]", count: int = 0, within: float = SEARCH_TIMEOUT
    ) -> str:
        """Return a text with what ``new`` makes of each match in its place, or of the first ``count``.

        Raises:
            TimeoutError: it took longer than ``within`` seconds.
        """
        if len(subject) <= self._free_length:
            return self._sub(new, subject, count)
        return self._sub(new, subject, count, timeout=within)

    def __repr__(self) -> str:
        """Show the pattern."""
        return f"<Regex {self.pattern!r}>"


class Effort(NamedTuple):
    """What a search can cost, at worst: ``factor`` times the length of the subject to the power of ``degree``."""

    degree: int
    factor: int
    is_polynomial: bool  # False: nobody knows, or worse
    expansion: int  # characters of the pattern when its counted repeats are unrolled

    def free_length(self) -> int:
        """Return the length of subjects up to which a search needs no watching; -1 for none."""
        if not self.is_polynomial or self.factor > FREE_STEPS:
            return -1
        return int((FREE_STEPS / self.factor) ** (1 / self.degree)) if self.degree else sys.maxsize


def estimate(pattern: str) -> Effort:
    """Judge a pattern by its quantifiers; what is not understood is taken for the worst.

    Each unbounded quantifier, and a start that is not anchored, raise the degree; each choice doubles the factor. A
    quantifier on a group, as in ``(a+)+``, and references back make more than a power of it.
    """
    scan = _Scan(pattern)
    while scan.at < len(pattern):
        scan.step()
    is_anchored = pattern.startswith(("^", r"\A")) and "|" not in pattern
    return Effort(scan.unbounded + (not is_anchored), scan.factor, scan.is_polynomial, scan.expansion())


class _Scan:
    """A walk over a pattern, atom by atom."""

    def __init__(self, pattern: str) -> None:
        self.at = 0
        self.unbounded = 0
        self.factor = 1
        self.is_polynomial = True
        self._pattern = pattern
        self._sizes = [0]  # of the open groups, the outermost first
        self._last = 0  # the size of the last atom
        self._is_last_group = False

    def expansion(self) -> int:
        """Return the size of the pattern, unrolled."""
        return sum(self._sizes)

    def step(self) -> None:
        """Read an atom or a quantifier."""
        pattern, at = self._pattern, self.at
        character = pattern[at]
        counted = _COUNTED.match(pattern, at) if character == "{" else None
        if character == "(":
            self._open_group()
        elif character == ")":
            self._close_group()
        elif character in "*+?" or counted is not None:
            self._quantify(counted)
        elif character == "|":
            self.factor *= 2
            self.at += 1
        elif character == "[":
            self._skip_class()
        elif character == "\\":
            self.is_polynomial &= pattern[at + 1 : at + 2] not in tuple("123456789gkLRX")
            self._atom(2)
        else:
            self._atom(1)

    def _atom(self, length: int) -> None:
        self.at += length
        self._sizes[-1] += 1
        self._last, self._is_last_group = 1, False

    def _open_group(self) -> None:
        if self._pattern.startswith("(?", self.at):
            found = _HARMLESS_GROUP.match(self._pattern, self.at)
            if found is None:
                self.is_polynomial = False
                self.at += 2
            else:
                self.at = found.end()
                if found[0].endswith(")"):
                    return  # flags alone
        else:
            self.at += 1
        self._sizes.append(0)

    def _close_group(self) -> None:
        self.at += 1
        self._last = self._sizes.pop() if len(self._sizes) > 1 else 0
        self._sizes[-1] += self._last
        self._is_last_group = True

    def _skip_class(self) -> None:
        pattern, at = self._pattern, self.at + 1
        if pattern.startswith("^", at):
            at += 1
        if pattern.startswith("]", at):
            at += 1
        while at < len(pattern) and pattern[at] != "]":
            if pattern.startswith("[:", at) and ":]" in pattern[at:]:
                at = pattern.index(":]", at) + 1
            at += 2 if pattern[at] == "\\" else 1
        self._atom(at + 1 - self.at)

    def _quantify(self, counted: re.Match[str] | None) -> None:
        least, most = self._bounds(counted)
        self.at = counted.end() if counted is not None else self.at + 1
        if self._pattern.startswith(("?", "+"), self.at):
            self.at += 1  # lazy or possessive
        if most is None:
            self.unbounded += 1
            self.is_polynomial &= not self._is_last_group
        elif most > 1 and self._is_last_group:
            self.is_polynomial = False
        elif most > least:
            self.factor *= most - least + 1
        times = least if most is None else most
        self._sizes[-1] += self._last * max(0, times - 1)
        self._last *= max(1, times)

    def _bounds(self, counted: re.Match[str] | None) -> tuple[int, int | None]:
        if counted is None:
            character = self._pattern[self.at]
            return int(character == "+"), 1 if character == "?" else None
        # No pattern that is short enough says more with more digits.
        least = int(counted[1][:9] or 0)
        if not counted[2]:
            return least, least
        return least, int(counted[3][:9]) if counted[3] else None


def check_regex(pattern: Any, path: str) -> None:
    """Check that a value is a regular expression that can be compiled.

    Raises:
        InvalidResource: with the path, and what is wrong.
    """
    if not isinstance(pattern, str):
        raise InvalidResource(path, "must be a regular expression")
    try:
        Regex(pattern)
    except ValueError as error:
        raise InvalidResource(path, str(error)) from error
