"""What plugins share that rewrite targets and fields: patterns with replacements, targets that can be sent."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import Regex, check_regex
from worker.plugins.guard_checks import check_field, field_value
from worker.variables import Template, assign

if TYPE_CHECKING:
    import regex

    from worker.exchange import Exchange

_GROUP = re.compile(r"\$(?:([0-9])|\{([0-9]{1,2})\}|(\$))")
_BEFORE_QUERY = re.compile(r"(?:\$\{[^}]*\}|[^?])*")
_QUERY_SAFE = "/?!$&'()*+,;=:@~%[]^`{|}"


class Substitution:
    """A pattern, and what its first match is replaced by: ``$1`` and ``${1}`` are groups, ``$$`` is a dollar."""

    __slots__ = ("_parts", "_pattern")

    def __init__(self, pattern: str, replacement: str) -> None:
        """Compile; ValueError when the pattern is none."""
        self._pattern = Regex(pattern)
        self._parts = _parts(replacement)

    @property
    def pattern(self) -> str:
        """The pattern, as it is written."""
        return self._pattern.pattern

    def search(self, text: str) -> "regex.Match[str] | None":
        """Find the first match; TimeoutError when that takes too long."""
        return self._pattern.search(text)

    def apply(self, text: str, found: "regex.Match[str]") -> str:
        """Return the text with the match replaced; a group that is not there, or took no part, is empty."""
        return f"{text[: found.start()]}{self._expanded(found)}{text[found.end() :]}"

    def apply_all(self, text: str, count: int, within: float) -> str:
        """Return the text with all matches replaced, or the first ``count``; TimeoutError after ``within`` seconds."""
        return self._pattern.replace(text, self._expanded, count, within)

    def _expanded(self, found: "regex.Match[str]") -> str:
        last = found.re.groups
        return "".join(
            [part if isinstance(part, str) else (part <= last and found[part]) or "" for part in self._parts]
        )

    def target(self, text: str, found: "regex.Match[str]", question_mark: str = "\0") -> str:
        """Do as ``apply``, with something else for the question marks that are not the replacement's own."""
        last = found.re.groups
        new = [
            part if isinstance(part, str) else ((part <= last and found[part]) or "").replace("?", question_mark)
            for part in self._parts
        ]
        before, after = (part.replace("?", question_mark) for part in (text[: found.start()], text[found.end() :]))
        return f"{before}{''.join(new)}{after}"


def _parts(replacement: str) -> list[str | int]:
    """Take a replacement apart: texts, and the numbers of groups."""
    parts: list[str | int] = []
    at = 0
    for found in _GROUP.finditer(replacement):
        parts.append(replacement[at : found.start()])
        parts.append("$" if found[3] else int(found[1] or found[2]))
        at = found.end()
    return [*parts, replacement[at:]]


def check_substitutions(pairs: Sequence[str], path: str) -> None:
    """Check that there is a replacement for each pattern; InvalidResource."""
    if len(pairs) % 2 or not pairs:
        raise InvalidResource(path, "must be patterns, each followed by its replacement")
    for at in range(0, len(pairs), 2):
        check_regex(pairs[at], f"{path}[{at}]")


def substitutions(pairs: Sequence[str]) -> list[Substitution]:
    """Compile a list of patterns, each followed by its replacement."""
    return [Substitution(*pairs[at : at + 2]) for at in range(0, len(pairs), 2)]


def assign_groups(exchange: "Exchange", found: "regex.Match[str]") -> None:
    """Let templates see the groups of a match as ``$1``, ``$2``, …"""
    for number, text in enumerate(found.groups(), 1):
        assign(exchange, str(number), text or "")


def sendable(text: str) -> bytes:
    """Return a target or query in which nothing is left that ends the request line; escapes stay as they are."""
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe=_QUERY_SAFE).encode()


class TargetTemplate:
    """Path and query with variables in them; a question mark that a value brings does not end the path."""

    __slots__ = ("_path", "_query", "is_constant")

    def __init__(self, text: str) -> None:
        """Compile; the first question mark outside of a variable begins the query."""
        found = _BEFORE_QUERY.match(text)
        path = found[0] if found is not None else ""
        self._path = Template(path)
        self._query = Template(text[len(path) + 1 :]) if len(path) < len(text) else None
        self.is_constant = self._path.is_constant and (self._query is None or self._query.is_constant)

    def render(self, exchange: "Exchange") -> tuple[str, str | None]:
        """Return path and query, None for none; BodyNeeded when a variable wants to see the body."""
        return self._path.render(exchange), self._query.render(exchange) if self._query is not None else None


class FieldTemplates:
    """Fields that are added, set (in place of those of the same name) and removed, in this order.

    ``pattern`` matches the lines that go; None when none do. ``host`` is what is said of ``Host``.
    """

    __slots__ = ("_constant", "_lines", "host", "is_constant", "pattern")

    def __init__(self, add: Mapping[str, Any], set_: Mapping[str, Any], remove: Sequence[str]) -> None:
        """Compile; values are texts, numbers, or lists of them for repeated fields."""
        removed = {name.lower() for name in remove}
        replaced = {name.lower(): name for name in set_}
        come = [(name, add[name]) for name in add if name.lower() not in removed | replaced.keys()]
        come += [(name, set_[name]) for lower, name in replaced.items() if lower not in removed]
        go = sorted(name for name in removed | replaced.keys() if name != "host")
        joined = "|".join(map(re.escape, go)).encode()
        self.pattern = re.compile(rb"(?i)\n(?:%b):[^\r\n]*\r(?=\n)" % joined) if go else None
        self.host: Template | None = None
        self._lines: list[tuple[bytes, Template]] = []
        for name, value in come:
            for each in value if isinstance(value, list) else [value]:
                if name.lower() == "host":
                    self.host = Template(shown_value(each))
                else:
                    self._lines.append((name.encode(), Template(shown_value(each))))
        constant = all(template.is_constant for _, template in self._lines)
        self.is_constant = constant and (self.host is None or self.host.is_constant)
        self._constant = b"".join([_line(name, template._text) for name, template in self._lines]) if constant else None

    def lines(self, exchange: "Exchange") -> bytes:
        """Return the lines that come; BodyNeeded when a variable wants to see the body."""
        if self._constant is not None:
            return self._constant
        return b"".join([_line(name, template.render(exchange)) for name, template in self._lines])


def _line(name: bytes, value: str) -> bytes:
    return b"%b: %b\r\n" % (name, field_value(value).strip(b" \t"))


def shown_value(value: Any) -> str:
    """Return a field's value as text."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def check_fields(fields: Any, path: str) -> None:
    """Check that an object has names of fields with texts, numbers or lists of them; InvalidResource."""
    if not isinstance(fields, Mapping):
        raise InvalidResource(path, "must be an object")
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise InvalidResource(f"{path}[{name!r}]", "must be a text, a number, or an array of them")
            check_field(name, shown_value(each), f"{path}[{name!r}]")


def check_names(names: Any, path: str) -> None:
    """Check that an array has names of fields; InvalidResource."""
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise InvalidResource(path, "must be an array of names")
    for at, name in enumerate(names):
        if not isinstance(name, str):
            raise InvalidResource(f"{path}[{at}]", "must be the name of a field")
        check_field(name, "", f"{path}[{at}]")
