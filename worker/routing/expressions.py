"""Expressions as functions of an exchange, compiled once per change (routing.md section 6).

A comparison whose evaluation fails, as a regular expression that takes too long, makes the whole expression false; true
where that is the safe side.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from config_sync.schema.expressions import Comparison, Group, Logic, Operator, parse_expression
from config_sync.schema.regexes import Regex
from worker.routing.route import AddressCondition
from worker.variables import Accessor, Value, accessor
from worker.variables.values import number_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.routing")

Condition = Callable[["Exchange"], bool]


def compile_expression(expression: Sequence[Any], path: str = "$.vars", in_doubt: bool = False) -> Condition:
    """Compile an expression that stands at a JSON path.

    The function raises BodyNeeded when a variable wants to see a body that has not been read; it returns ``in_doubt``
    when the evaluation fails.

    Raises:
        InvalidResource: with the path of the part that is not understood.
    """
    group = parse_expression(expression, path)
    condition = _compile_group(group)
    return _guarded(condition, path, in_doubt) if _has_regex(group) else condition


def _has_regex(member: Group | Comparison) -> bool:
    if isinstance(member, Group):
        return any(map(_has_regex, member.members))
    return member.operator in (Operator.MATCHES, Operator.MATCHES_ANY_CASE)


def _guarded(condition: Condition, path: str, in_doubt: bool) -> Condition:
    def guarded(exchange: "Exchange") -> bool:
        try:
            return condition(exchange)
        except TimeoutError:
            log.warning("%s: a regular expression took too long on %r; taken as %s", path, exchange.request, in_doubt)
            return in_doubt

    return guarded


def _compile(member: Group | Comparison) -> Condition:
    if isinstance(member, Group):
        return _compile_group(member)
    compare = COMPARISONS[member.operator](accessor(member.name), member.value)
    return _negated(compare) if member.is_negated else compare


def _negated(condition: Condition) -> Condition:
    return lambda exchange: not condition(exchange)


def _compile_group(group: Group) -> Condition:
    conditions = tuple(map(_compile, group.members))
    joined = _any(conditions) if group.logic in (Logic.OR, Logic.NOT_OR) else _all(conditions)
    return _negated(joined) if group.logic in (Logic.NOT_AND, Logic.NOT_OR) else joined


def _all(conditions: tuple[Condition, ...]) -> Condition:
    if not conditions:
        return lambda _: True
    if len(conditions) == 1:
        return conditions[0]
    if len(conditions) == 2:
        first, second = conditions
        return lambda exchange: first(exchange) and second(exchange)

    def all_hold(exchange: "Exchange") -> bool:
        for condition in conditions:  # noqa: SIM110 - all() costs a generator
            if not condition(exchange):
                return False
        return True

    return all_hold


def _any(conditions: tuple[Condition, ...]) -> Condition:
    if len(conditions) == 1:
        return conditions[0]
    if len(conditions) == 2:
        first, second = conditions
        return lambda exchange: first(exchange) or second(exchange)

    def any_holds(exchange: "Exchange") -> bool:
        for condition in conditions:  # noqa: SIM110 - any() costs a generator
            if condition(exchange):
                return True
        return False

    return any_holds


def is_same(left: Value | None, right: Any) -> bool:
    """Compare as JSON does: the text 1, the number 1 and true are three things."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _equal(get: Accessor, value: Any) -> Condition:
    if value is None:
        return lambda exchange: get(exchange) is None
    if isinstance(value, str):
        return lambda exchange: get(exchange) == value
    if isinstance(value, bool):
        return lambda exchange: get(exchange) is value
    if isinstance(value, int | float):
        return lambda exchange: number_of(get(exchange)) == value
    return lambda _: False  # an array or object is equal to nothing


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[Accessor, Any], Condition]:
    def ordered(get: Accessor, value: Any) -> Condition:
        bound = number_of(value)
        if bound is None:
            return lambda _: False

        def holds(exchange: "Exchange") -> bool:
            number = number_of(get(exchange))
            return number is not None and compare(number, bound)

        return holds

    return ordered


def _matches(get: Accessor, pattern: str, is_case_ignored: bool = False) -> Condition:
    matches = Regex(pattern, is_case_ignored).matches

    def found(exchange: "Exchange") -> bool:
        value = get(exchange)
        if isinstance(value, str):
            return matches(value)
        return isinstance(value, int | float) and not isinstance(value, bool) and matches(str(value))

    return found


def _in(get: Accessor, values: Any) -> Condition:
    if all(isinstance(value, str) for value in values):
        texts = frozenset(values)

        def is_among_texts(exchange: "Exchange") -> bool:
            value = get(exchange)
            return isinstance(value, str) and value in texts

        return is_among_texts

    def is_among(exchange: "Exchange") -> bool:
        value = get(exchange)
        return value is not None and any(is_same(value, other) for other in values)

    return is_among


def _has(get: Accessor, value: Any) -> Condition:
    def has(exchange: "Exchange") -> bool:
        values = get(exchange)
        return isinstance(values, list) and any(is_same(found, value) for found in values)

    return has


def _ipmatch(get: Accessor, value: Any) -> Condition:
    holds = AddressCondition(tuple(value) if isinstance(value, list) else (value,)).holds

    def is_within(exchange: "Exchange") -> bool:
        address = get(exchange)
        return isinstance(address, str) and holds(address)

    return is_within


COMPARISONS: dict[Operator, Callable[[Accessor, Any], Condition]] = {
    Operator.EQUAL: _equal,
    Operator.NOT_EQUAL: lambda get, value: _negated(_equal(get, value)),
    Operator.GREATER: _ordered(lambda left, right: left > right),
    Operator.GREATER_OR_EQUAL: _ordered(lambda left, right: left >= right),
    Operator.LESS: _ordered(lambda left, right: left < right),
    Operator.LESS_OR_EQUAL: _ordered(lambda left, right: left <= right),
    Operator.MATCHES: _matches,
    Operator.MATCHES_ANY_CASE: lambda get, value: _matches(get, value, is_case_ignored=True),
    Operator.IN: _in,
    Operator.HAS: _has,
    Operator.IPMATCH: _ipmatch,
}
"""By operator, what makes a function of an accessor and a value."""
