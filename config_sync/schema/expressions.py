"""Boolean expressions: ``vars`` of a route, ``_meta.filter`` of a plugin, and others (routing.md section 6).

They are parsed here, and compiled where they run; so one that cannot be compiled never takes the place of a good one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from config_sync.errors import InvalidResource
from config_sync.schema.fields import check_addresses
from config_sync.schema.regexes import check_regex

_DEEPEST = 100


class Logic(Enum):
    """How the members of a group are joined."""

    AND = "and"
    OR = "or"
    NOT_AND = "!and"
    NOT_OR = "!or"


class Operator(Enum):
    """How a variable is compared."""

    EQUAL = "=="
    NOT_EQUAL = "~="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    MATCHES = "~~"
    MATCHES_ANY_CASE = "~*"
    IN = "in"
    HAS = "has"
    IPMATCH = "ipmatch"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``[name, operator, value]``: a variable, compared with what JSON can hold."""

    name: str
    operator: Operator
    value: Any
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions, joined."""

    logic: Logic
    members: tuple["Group | Comparison", ...]

    def variables(self) -> Iterator[str]:
        """Walk the names of all variables."""
        for member in self.members:
            if isinstance(member, Comparison):
                yield member.name
            else:
                yield from member.variables()


_LOGICS = {logic.value: logic for logic in Logic}
_OPERATORS = {operator.value: operator for operator in Operator}


def parse_expression(expression: Any, path: str) -> Group:
    """Read an expression; an empty one has no members, and is always true.

    Raises:
        InvalidResource: with the path of the part that is not understood.
    """
    if not isinstance(expression, list | tuple):
        if expression == {}:
            return Group(Logic.AND, ())
        raise InvalidResource(path, "must be an array of conditions")
    return _parse_group(expression, path, 0) if expression else Group(Logic.AND, ())


def check_expression(expression: Any, path: str) -> None:
    """Check an expression.

    Raises:
        InvalidResource: see ``parse_expression``.
    """
    if expression:
        parse_expression(expression, path)


def _parse_group(group: Sequence[Any], path: str, depth: int) -> Group:
    first = group[0]
    if depth > _DEEPEST:
        raise InvalidResource(path, "nested too deeply")
    if isinstance(first, list):
        return Group(Logic.AND, _parse_members(group, 0, path, depth))
    if not isinstance(first, str):
        raise InvalidResource(f"{path}[0]", "must be a condition or a logical operator")
    logic = _LOGICS.get(first.lower())
    if logic is None:
        raise InvalidResource(path, "a condition must stand in brackets of its own, as in [[name, operator, value]]")
    if len(group) < 3:
        raise InvalidResource(path, f"{first} needs at least two operands")
    return Group(logic, _parse_members(group, 1, path, depth))


def _parse_members(group: Sequence[Any], start: int, path: str, depth: int) -> tuple[Group | Comparison, ...]:
    return tuple(_parse_member(group[at], f"{path}[{at}]", depth + 1) for at in range(start, len(group)))


def _parse_member(member: Any, path: str, depth: int) -> Group | Comparison:
    if not isinstance(member, list) or not member:
        raise InvalidResource(path, "must be a condition or a group of conditions")
    if isinstance(member[0], list) or (isinstance(member[0], str) and member[0].lower() in _LOGICS):
        return _parse_group(member, path, depth)
    return _parse_comparison(member, path)


def _parse_comparison(condition: list[Any], path: str) -> Comparison:
    name, *rest = condition
    if not isinstance(name, str):
        raise InvalidResource(f"{path}[0]", "must be the name of a variable")
    if not 1 <= len(rest) <= 3 or (len(rest) == 3 and rest[0] != "!"):
        raise InvalidResource(path, "must be [name, value], [name, operator, value] or [name, '!', operator, value]")
    if len(rest) == 1:
        value = rest[0]
        return Comparison(name, Operator.EQUAL, value.lower() if isinstance(value, str) else value)
    *_, written, value = rest
    operator = _OPERATORS.get(written.lower()) if isinstance(written, str) else None
    if operator is None:
        raise InvalidResource(f"{path}[{len(rest) - 1}]", "is no operator; there are " + " ".join(sorted(_OPERATORS)))
    _check_value(operator, value, f"{path}[{len(rest)}]")
    return Comparison(name, operator, value, is_negated=len(rest) == 3)


def _check_value(operator: Operator, value: Any, path: str) -> None:
    if operator in (Operator.MATCHES, Operator.MATCHES_ANY_CASE):
        check_regex(value, path)
    elif operator is Operator.IN and not isinstance(value, list) and value != {}:
        raise InvalidResource(path, "must be an array")
    elif operator is Operator.IPMATCH:
        addresses = value if isinstance(value, list) else [value]
        if not all(isinstance(address, str) for address in addresses):
            raise InvalidResource(path, "must be an address, or an array of addresses")
        check_addresses(addresses, path)
