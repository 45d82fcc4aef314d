"""Template: a text with variables in it (routing.md section 7).

``$name``, ``${name}``, ``${name ?? default}``; a backslash before the dollar keeps both as they are.
"""

import re
from typing import TYPE_CHECKING

from worker.variables.accessors import accessor
from worker.variables.values import Accessor, shown

if TYPE_CHECKING:
    from worker.exchange import Exchange

_VARIABLE = re.compile(r"(?<!\\)\$(?:([A-Za-z0-9_.]+)|\{\s*([A-Za-z0-9_.]+)\s*(?:\?\?\s*(.*?)\s*)?\})")


class Template:
    """A text, compiled; ``names`` are those of its variables, in order."""

    __slots__ = ("_parts", "_text", "names")

    def __init__(self, text: str) -> None:
        """Compile a text; one that looks like a variable but is none stays as it is."""
        self._text = text
        self.names: list[str] = []
        self._parts: list[tuple[str, Accessor | None, str]] = []  # a literal, then a variable with its default
        at = 0
        for found in _VARIABLE.finditer(text):
            name = found[1] or found[2]
            self.names.append(name)
            self._parts.append((text[at : found.start()], accessor(name), found[3] or ""))
            at = found.end()
        if at < len(text) or not self._parts:
            self._parts.append((text[at:], None, ""))

    @property
    def is_constant(self) -> bool:
        """Whether there is no variable in it."""
        return not self.names

    def render(self, exchange: "Exchange") -> str:
        """Return the text with the values that its variables have in an exchange.

        Raises:
            BodyNeeded: one of them wants to see a body that has not been read.
        """
        return self.resolve(exchange)[0]

    def resolve(self, exchange: "Exchange") -> tuple[str, int]:
        """Return the text, and how many of its variables have a value; defaults do not count.

        Raises:
            BodyNeeded: as ``render``.
        """
        resolved = 0
        pieces: list[str] = []
        for literal, get, default in self._parts:
            pieces.append(literal)
            if get is not None:
                value = get(exchange)
                if value is None:
                    pieces.append(default)
                else:
                    resolved += 1
                    pieces.append(shown(value))
        return "".join(pieces), resolved

    def __repr__(self) -> str:
        """Show the text."""
        return f"<Template {self._text!r}>"
