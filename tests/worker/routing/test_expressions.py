"""Expressions: the tables of routing.md section 6, and their laws."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import InvalidResource
from tests.fakes.exchanges import exchange_of, with_body
from worker.exchange import Exchange
from worker.routing.expressions import compile_expression


@pytest.fixture(scope="module")
def asked() -> Exchange:
    return exchange_of(
        "/v2/users?one=1&text=abc&upper=ABC&flag&empty=&ten=10&hex=0x1F&space=+7+&float=1.50&neg=-3",
        "X-Y: y",
        "Cookie: id=7",
    )


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        # ==
        (["arg_text", "==", "abc"], True),
        (["arg_text", "==", "ABC"], False),
        (["arg_one", "==", "1"], True),
        (["arg_one", "==", 1], True),
        (["arg_float", "==", 1.5], True),
        (["arg_hex", "==", 31], True),
        (["arg_space", "==", 7], True),
        (["arg_float", "==", "1.5"], False),
        (["arg_text", "==", 1], False),
        (["arg_flag", "==", True], True),
        (["arg_flag", "==", "true"], False),
        (["arg_flag", "==", 1], False),
        (["arg_one", "==", True], False),
        (["arg_no", "==", "x"], False),
        (["arg_no", "==", None], True),
        (["arg_empty", "==", None], False),
        (["arg_empty", "==", ""], True),
        (["arg_text", "==", ["abc"]], False),
        # ~=
        (["arg_text", "~=", "abc"], False),
        (["arg_text", "~=", "x"], True),
        (["arg_text", "~=", 1], True),
        (["arg_one", "~=", 1], False),
        (["arg_no", "~=", "x"], True),
        (["arg_no", "~=", 1], True),
        (["arg_no", "~=", None], False),
        (["arg_text", "~=", None], True),
        # order
        (["arg_ten", ">", 9], True),
        (["arg_ten", ">", "9"], True),
        (["arg_ten", ">", 10], False),
        (["arg_ten", ">=", 10], True),
        (["arg_ten", "<", 9], False),
        (["arg_neg", "<", 0], True),
        (["arg_ten", "<=", 10], True),
        (["arg_text", ">", 1], False),
        (["arg_text", "<", 1], False),
        (["arg_ten", ">", "x"], False),
        (["arg_no", "<", 1], False),
        (["arg_flag", ">=", 1], False),
        (["arg_ten", ">", None], False),
        # regular expressions
        (["uri", "~~", "^/v[0-9]"], True),
        (["uri", "~~", "users"], True),
        (["uri", "~~", "USERS"], False),
        (["uri", "~*", "USERS"], True),
        (["arg_no", "~~", ".*"], False),
        (["arg_empty", "~~", "^$"], True),
        (["arg_flag", "~~", "true"], False),
        # in
        (["arg_one", "in", ["0", "1"]], True),
        (["arg_one", "in", [1]], False),
        (["arg_one", "in", [1, "1"]], True),
        (["arg_flag", "in", [True]], True),
        (["arg_flag", "in", [1]], False),
        (["arg_no", "in", ["1", None]], False),
        (["arg_one", "in", []], False),
        (["arg_one", "in", {}], False),
        # has
        (["arg_one", "has", "1"], False),
        (["arg_no", "has", "1"], False),
        # ipmatch
        (["remote_addr", "ipmatch", "192.0.2.7"], True),
        (["remote_addr", "ipmatch", "192.0.2.0/24"], True),
        (["remote_addr", "ipmatch", ["::1", "192.0.0.0/8"]], True),
        (["remote_addr", "ipmatch", ["10.0.0.0/8", "2001:db8::/32"]], False),
        (["arg_text", "ipmatch", "0.0.0.0/0"], False),
        (["arg_no", "ipmatch", "0.0.0.0/0"], False),
        # negation
        (["arg_text", "!", "==", "abc"], False),
        (["arg_no", "!", "==", "x"], True),
        (["arg_no", "!", "~~", "x"], True),
        (["remote_addr", "!", "ipmatch", "10.0.0.0/8"], True),
        # the short form, which lowers the value alone
        (["arg_text", "ABC"], True),
        (["arg_upper", "ABC"], False),
        (["arg_one", 1], True),
        (["arg_no", None], True),
        # case of operators
        (["arg_one", "IN", ["1"]], True),
        (["remote_addr", "IpMatch", "192.0.2.7"], True),
        # other variables
        (["http_x_y", "==", "y"], True),
        (["cookie_id", ">", 6], True),
        (["request_method", "==", "GET"], True),
        (["no_such_variable", "==", None], True),
    ],
)
def test_conditions(asked: Exchange, condition: list[Any], holds: bool) -> None:
    assert compile_expression([condition])(asked) is holds


YES: list[Any] = ["arg_one", "==", "1"]
NO: list[Any] = ["arg_one", "==", "2"]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ([], True),
        ([YES], True),
        ([YES, NO], False),
        ([YES, YES, YES], True),
        ([YES, YES, NO], False),
        (["AND", YES, NO], False),
        (["OR", YES, NO], True),
        (["or", NO, NO], False),
        (["or", NO, NO, YES], True),
        (["or", NO, NO, NO], False),
        (["!AND", YES, NO], True),
        (["!and", YES, YES], False),
        (["!OR", NO, NO], True),
        (["!or", YES, NO], False),
        ([["OR", NO, ["AND", YES, ["uri", "~~", "^/v2"]]], ["request_method", "==", "GET"]], True),
        ([["!OR", NO, ["AND", YES, ["uri", "~~", "^/v3"]]], YES], True),
        ([["OR", [NO, YES], [YES, YES]]], True),
    ],
)
def test_groups(asked: Exchange, expression: list[Any], holds: bool) -> None:
    assert compile_expression(expression)(asked) is holds


def test_values_of_a_body() -> None:
    exchange = with_body("application/json", b'{"tags": ["a", 1, true], "n": 5, "o": {"k": false}}')
    for condition, holds in (
        (["post_arg.tags", "has", "a"], True),
        (["post_arg.tags", "has", 1], True),
        (["post_arg.tags", "has", "1"], False),
        (["post_arg.tags[*]", "has", True], True),
        (["post_arg.n", "==", 5], True),
        (["post_arg.n", "==", "5"], False),
        (["post_arg.n", "in", [5]], True),
        (["post_arg.n", "~~", "^5$"], True),
        (["post_arg.o.k", "==", False], True),
        (["post_arg.o.k", "==", 0], False),
        (["post_arg.o.k", "==", None], False),
        (["post_arg.tags", "==", None], False),
    ):
        assert compile_expression([condition])(exchange) is holds, condition


def test_root_fields_of_graphql() -> None:
    exchange = exchange_of("/?query=%7Ba%20b%7D")
    assert compile_expression([["graphql_root_fields", "has", "b"], ["graphql_operation", "==", "query"]])(exchange)


@pytest.mark.parametrize("condition", [["uri", "~~", "(a|aa)+[bc]"], ["uri", "!", "~~", "(a|aa)+[bc]"]])
def test_a_regex_that_takes_too_long_is_no_match(condition: list[Any]) -> None:
    exchange = exchange_of("/" + "a" * 60)
    assert compile_expression([condition])(exchange) is False


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        (["arg_a", "==", "1"], "$.vars"),
        ([["arg_a", "is", "1"]], "$.vars[0][1]"),
        ([["OR", YES]], "$.vars[0]"),
        ([YES, ["a", "~~", "("]], "$.vars[1][2]"),
        ([[]], "$.vars[0]"),
    ],
)
def test_errors_name_the_place(expression: list[Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        compile_expression(expression)
    assert caught.value.path == path


ARGUMENTS = st.sampled_from(["one", "text", "flag", "empty", "ten", "no"]).map("arg_{}".format)
SCALARS = st.none() | st.booleans() | st.integers(-2, 20) | st.sampled_from(["1", "abc", "", "10", "x"])
CONDITIONS = (
    st.tuples(ARGUMENTS, st.sampled_from(["==", "~=", ">", ">=", "<", "<="]), SCALARS)
    | st.tuples(ARGUMENTS, st.sampled_from(["~~", "~*"]), st.sampled_from(["^1", "B", "a?c", ""]))
    | st.tuples(ARGUMENTS, st.just("in"), st.lists(SCALARS, max_size=3))
    | st.tuples(ARGUMENTS, st.just("has"), SCALARS)
).map(list)
LOGICS = st.sampled_from(["AND", "OR", "!AND", "!OR", "and", "!or"])
OPERANDS = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.tuples(LOGICS, st.lists(inner, min_size=2, max_size=4)).map(lambda pair: [pair[0], *pair[1]])
        | st.lists(
            inner.filter(lambda member: not isinstance(member[0], str) or member[0].startswith("arg_")),
            min_size=1,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def holds_in(exchange: Exchange, expression: list[Any]) -> bool:
    return compile_expression(expression)(exchange)


@given(CONDITIONS)
def test_negation_inverts(condition: list[Any]) -> None:
    exchange = exchange_of("/?one=1&text=abc&flag&empty=&ten=10")
    name, operator, value = condition
    assert holds_in(exchange, [[name, "!", operator, value]]) is not holds_in(exchange, [condition])


@given(st.lists(OPERANDS, min_size=2, max_size=4))
def test_groups_obey_boolean_algebra(operands: list[Any]) -> None:
    exchange = exchange_of("/?one=1&text=abc&flag&empty=&ten=10")
    each = [holds_in(exchange, ["AND", operand, operand]) for operand in operands]
    assert holds_in(exchange, ["AND", *operands]) is all(each)
    assert holds_in(exchange, ["OR", *operands]) is any(each)
    assert holds_in(exchange, ["!AND", *operands]) is not all(each)
    assert holds_in(exchange, ["!OR", *operands]) is not any(each)


@given(CONDITIONS)
def test_different_is_not_equal(condition: list[Any]) -> None:
    exchange = exchange_of("/?one=1&text=abc&flag&empty=&ten=10")
    name, _, value = condition
    assert holds_in(exchange, [[name, "~=", value]]) is not holds_in(exchange, [[name, "==", value]])


WORDS = st.sampled_from(["arg_a", "uri", "AND", "!or", "==", "~~", "!", "in", "has", "ipmatch", "(", "::1", ""])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=12,
)


@given(st.lists(TREES, max_size=5))
def test_any_tree_is_compiled_or_refused(tree: list[Any]) -> None:
    try:
        condition = compile_expression(tree)
    except InvalidResource:
        return
    assert isinstance(condition(exchange_of("/?a=1")), bool)


def test_deep_nesting_is_refused() -> None:
    tree: list[Any] = YES
    for _ in range(5_000):
        tree = [tree]
    with pytest.raises(InvalidResource, match="too deeply"):
        compile_expression(tree)
