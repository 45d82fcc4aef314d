"""YAML read value by value, as JSON can hold it.

PyYAML would build a tree of nodes of the whole file before the first value, some 30 times the size of the text, and
keep no line of what it has built. Here libyaml's events become values directly: who reads a list of a hundred
thousand objects holds one of them at a time, and knows its line. What JSON cannot hold is refused: NaN, dates stay
text, keys are always text. A key that stands twice is refused, since half of what was written would be lost.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from config_sync.errors import StandaloneError

# libyaml through Cython where it has been built (all wheels), PyYAML's own parser elsewhere.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_ALIASED = 1_000_000  # values that aliases stand for, in the whole file: a few lines can stand for billions
_MAX_CACHED = 100_000
_PREFIX = "tag:yaml.org,2002:"
_STR = _PREFIX + "str"
_SCALARS = frozenset(_PREFIX + name for name in ("null", "bool", "int", "float", "str"))
_MAP = frozenset((None, "!", _PREFIX + "map"))
_SEQ = frozenset((None, "!", _PREFIX + "seq"))


class _Resolver(yaml.resolver.Resolver):
    """Knows null, booleans and numbers; what is a date to YAML 1.1 is text, and so is a lone equals sign."""


_Resolver.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag in _SCALARS or tag == _PREFIX + "merge"]
    for first, rules in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
}


class YamlValues:
    """The values of one YAML document, in the order of the text.

    Every method raises StandaloneError with the line where the text is no YAML, or holds what JSON cannot.
    """

    def __init__(self, text: str) -> None:
        """Begin before the first value."""
        try:
            self._parser = _PARSER(text)
        except yaml.YAMLError as error:
            raise _refusal(error) from error
        self._resolver: Any = _Resolver()
        self._constructor = yaml.constructor.SafeConstructor()
        self._plain: dict[str, Any] = {}  # what plain scalars have been resolved to
        self._anchors: dict[str, tuple[Any, int]] = {}  # with the number of values in it
        self._count = 0
        self._aliased = 0
        self.line = 0  # of the value read last

    def sections(self) -> Iterator[tuple[str, int]]:
        """Go through the keys of the document, which must be a mapping, each with its line.

        After each one call ``items`` or ``value``, once, and to its end.
        """
        self._expect(yaml.StreamStartEvent)
        event = self._next()
        if type(event) is yaml.StreamEndEvent:
            return
        event = self._next()
        if not self._is_empty(event):
            if type(event) is not yaml.MappingStartEvent:
                raise StandaloneError("the file must be a mapping of sections", event.start_mark.line + 1)
            seen: set[str] = set()
            while type(event := self._next()) is not yaml.MappingEndEvent:
                name = self._key(event, seen)
                yield name, event.start_mark.line + 1
        self._expect(yaml.DocumentEndEvent)
        event = self._next()
        if type(event) is not yaml.StreamEndEvent:
            raise StandaloneError("there is a second document; one file is one document", event.start_mark.line + 1)

    def items(self) -> Iterator[Any] | None:
        """Go through the items of a sequence, ``line`` tells where each begins; None: it is none, but empty."""
        event = self._next()
        if type(event) is yaml.SequenceStartEvent and event.anchor is None:
            return self._items()
        line = event.start_mark.line + 1
        value = self._value(event)
        self.line = line
        if isinstance(value, list):
            return iter(value)
        if value is None or value == {}:
            return None
        raise StandaloneError("must be a list", line)

    def _items(self) -> Iterator[Any]:
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            line = event.start_mark.line + 1
            value = self._value(event)
            self.line = line
            yield value

    def value(self) -> Any:
        """Read one whole value."""
        try:
            return self._value(self._next())
        except RecursionError as error:
            raise StandaloneError("nested too deeply", self.line) from error

    def _next(self) -> Any:
        try:
            return self._parser.get_event()
        except yaml.YAMLError as error:
            raise _refusal(error) from error

    def _expect(self, kind: type[yaml.Event]) -> None:
        event = self._next()
        if type(event) is not kind:
            raise StandaloneError("the file is no YAML document", event.start_mark.line + 1)

    def _is_empty(self, event: Any) -> bool:
        return type(event) is yaml.ScalarEvent and self._scalar(event) is None

    def _value(self, event: Any) -> Any:
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event)
        before = self._count
        self._count += 1
        value: Any
        if kind is yaml.ScalarEvent:
            value = self._scalar(event)
        elif kind is yaml.MappingStartEvent:
            value = self._mapping(event)
        else:
            if event.tag not in _SEQ:
                raise StandaloneError(f"{event.tag} is not something JSON has", event.start_mark.line + 1)
            value = []
            while type(inner := self._next()) is not yaml.SequenceEndEvent:
                value.append(self._value(inner))
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._count - before
        return value

    def _alias(self, event: Any) -> Any:
        line = event.start_mark.line + 1
        if event.anchor not in self._anchors:
            raise StandaloneError(f"there is no &{event.anchor} before this *{event.anchor}", line)
        value, size = self._anchors[event.anchor]
        self._count += size
        self._aliased += size
        if self._aliased > _MAX_ALIASED:
            raise StandaloneError(f"aliases stand for more than {_MAX_ALIASED} values", line)
        return value

    def _mapping(self, event: Any) -> dict[str, Any]:
        if event.tag not in _MAP:
            raise StandaloneError(f"{event.tag} is not something JSON has", event.start_mark.line + 1)
        members: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: set[str] = set()
        while type(inner := self._next()) is not yaml.MappingEndEvent:
            if self._is_merge(inner):
                merged = {**self._merge(inner.start_mark.line + 1), **merged}
            else:
                name = self._key(inner, seen)
                members[name] = self._value(self._next())
        return {**merged, **members} if merged else members

    def _is_merge(self, event: Any) -> bool:
        return type(event) is yaml.ScalarEvent and event.value == "<<" and bool(event.implicit[0])

    def _merge(self, line: int) -> dict[str, Any]:
        source = self._value(self._next())
        merged: dict[str, Any] = {}
        for mapping in reversed(source if isinstance(source, list) else [source]):
            if not isinstance(mapping, dict):
                raise StandaloneError("<< takes a mapping or a list of mappings", line)
            merged.update(mapping)
        return merged

    def _key(self, event: Any, seen: set[str]) -> str:
        line = event.start_mark.line + 1
        if type(event) is not yaml.ScalarEvent:
            raise StandaloneError("a key must be text", line)
        name: str = event.value
        if name in seen:
            raise StandaloneError(f"the key {name!r} stands twice", line)
        seen.add(name)
        return name

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None and not event.implicit[0]:
            return text  # quoted
        if tag is None:
            try:
                return self._plain[text]
            except KeyError:
                pass
        if tag is None or tag == "!":
            tag = self._resolver.resolve(yaml.ScalarNode, text, (tag is None, tag is not None))
        if tag not in _SCALARS:
            raise StandaloneError(f"{tag} is not something JSON has", event.start_mark.line + 1)
        value = text if tag == _STR else self._constructed(tag, text, event.start_mark.line + 1)
        if event.tag is None:
            if len(self._plain) >= _MAX_CACHED:
                self._plain.clear()
            self._plain[text] = value
        return value

    def _constructed(self, tag: str, text: str, line: int) -> Any:
        try:
            value = self._constructor.construct_object(yaml.ScalarNode(tag, text))
        except (yaml.YAMLError, ValueError, KeyError, IndexError) as error:
            raise StandaloneError(f"{text!r} is no {tag.removeprefix(_PREFIX)}", line) from error
        self._constructor.constructed_objects.clear()
        if isinstance(value, float) and value - value != 0:
            raise StandaloneError(f"{text} is not something JSON has", line)
        return value


def _refusal(error: yaml.YAMLError) -> StandaloneError:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    reason = f"{context}: {reason}" if context else reason
    return StandaloneError(f"is no YAML: {reason}", mark.line + 1 if mark is not None else 0)
