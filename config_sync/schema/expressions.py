"""Boolean expressions: ``vars`` of a route, ``_meta.filter`` of a plugin (routing.md section 6).

Only the form is checked here, so that an expression that cannot be compiled never takes the place of a good one.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any

from config_sync.errors import InvalidResource
from config_sync.schema.fields import check_addresses

LOGICAL = frozenset(("and", "or", "!and", "!or"))
OPERATORS = frozenset(("==", "~=", ">", ">=", "<", "<=", "~~", "~*", "in", "has", "ipmatch"))
_LONGEST_PATTERN = 4096


def check_expression(expression: Sequence[Any], path: str) -> None:
    """Check an expression; an empty one is always true.

    Raises:
        InvalidResource: with the path of the part that is not understood.
    """
    if not expression:
        return
    first = expression[0]
    if isinstance(first, list):
        for at, member in enumerate(expression):
            _check_operand(member, f"{path}[{at}]")
    elif isinstance(first, str) and first.lower() in LOGICAL:
        _check_group(expression, path)
    elif isinstance(first, str):
        raise InvalidResource(path, "a condition must stand in brackets of its own, as in [[name, operator, value]]")
    else:
        raise InvalidResource(f"{path}[0]", "must be a condition or a logical operator")


def _check_operand(member: Any, path: str) -> None:
    if not isinstance(member, list) or not member:
        raise InvalidResource(path, "must be a condition or a group of conditions")
    if isinstance(member[0], list) or (isinstance(member[0], str) and member[0].lower() in LOGICAL):
        check_expression(member, path)
    else:
        _check_condition(member, path)


def _check_group(group: Sequence[Any], path: str) -> None:
    if len(group) < 3:
        raise InvalidResource(path, f"{group[0]} needs at least two operands")
    for at, member in enumerate(group[1:], 1):
        _check_operand(member, f"{path}[{at}]")


def _check_condition(condition: list[Any], path: str) -> None:
    name, *rest = condition
    if not isinstance(name, str):
        raise InvalidResource(f"{path}[0]", "must be the name of a variable")
    if not 1 <= len(rest) <= 3 or (len(rest) == 3 and rest[0] != "!"):
        raise InvalidResource(path, "must be [name, value], [name, operator, value] or [name, '!', operator, value]")
    if len(rest) == 1:
        return
    *_, operator, value = rest
    place = f"{path}[{len(rest) - 1}]"
    if not isinstance(operator, str) or operator.lower() not in OPERATORS:
        raise InvalidResource(place, "is no operator; there are " + " ".join(sorted(OPERATORS)))
    _check_value(operator.lower(), value, f"{path}[{len(rest)}]")


def _check_value(operator: str, value: Any, path: str) -> None:
    if operator in ("~~", "~*"):
        check_regex(value, path)
    elif operator == "in" and not isinstance(value, list) and value != {}:
        raise InvalidResource(path, "must be an array")
    elif operator == "ipmatch":
        addresses = value if isinstance(value, list) else [value]
        if not all(isinstance(address, str) for address in addresses):
            raise InvalidResource(path, "must be an address, or an array of addresses")
        check_addresses(addresses, path)


def check_regex(pattern: Any, path: str) -> None:
    """Check that a regular expression can be compiled; it may have 4096 characters."""
    if not isinstance(pattern, str):
        raise InvalidResource(path, "must be a regular expression")
    if len(pattern) > _LONGEST_PATTERN:
        raise InvalidResource(path, f"a regular expression may have {_LONGEST_PATTERN} characters")
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidResource(path, f"is no regular expression that Python reads: {error}") from error
