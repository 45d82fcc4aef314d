"""Expressions: what is accepted, and where what is not goes wrong."""

from typing import Any

import pytest

from config_sync.errors import InvalidResource
from config_sync.schema.expressions import check_expression


@pytest.mark.parametrize(
    "expression",
    [
        [],
        [["arg_a", "==", "1"]],
        [["arg_a", "!", "==", "1"], ["arg_b", "1"]],
        ["OR", ["arg_a", "==", None], ["arg_b", ">", 2]],
        ["!and", ["a", "has", "b"], ["OR", ["a", "IN", [1]], ["a", "in", {}]]],
        [["OR", ["a", "~~", "^/v2"], ["a", "~*", "x"]], [["b", "~=", "1"], ["c", "<=", 5]]],
        [["remote_addr", "ipmatch", "10.0.0.0/8"], ["remote_addr", "ipmatch", ["::1"]]],
    ],
)
def test_good_expressions(expression: list[Any]) -> None:
    check_expression(expression, "$")


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        (["arg_a", "==", "1"], "$"),
        ([1], "$[0]"),
        ([["arg_a", "==", "1"], 1], "$[1]"),
        ([[]], "$[0]"),
        ([[], ["a", "b"]], "$[0]"),
        ([[[]]], "$[0][0]"),
        (["OR", ["arg_a", "==", "1"]], "$"),
        ([["AND", ["a", "b"], []]], "$[0][2]"),
        ([["arg_a", "is", "1"]], "$[0][1]"),
        ([["arg_a", "!", "is", "1"]], "$[0][2]"),
        ([["arg_a", "not", "==", "1"]], "$[0]"),
        ([["arg_a"]], "$[0]"),
        ([["arg_a", "!", "==", "1", 2]], "$[0]"),
        ([[1, "==", "1"]], "$[0][0]"),
        ([["a", 1, "1"]], "$[0][1]"),
        ([["a", "in", "b"]], "$[0][2]"),
        ([["a", "~~", "("]], "$[0][2]"),
        ([["a", "~~", 1]], "$[0][2]"),
        ([["a", "~~", "x" * 4097]], "$[0][2]"),
        ([["a", "ipmatch", "10.0.0.300"]], "$[0][2]"),
        ([["a", "ipmatch", [1]]], "$[0][2]"),
    ],
)
def test_bad_expressions_name_the_place(expression: list[Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        check_expression(expression, "$")
    assert caught.value.path == path
