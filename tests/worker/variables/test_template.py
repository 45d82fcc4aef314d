"""Templates, as in routing.md section 7."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.exchanges import exchange_of, with_body
from worker.variables import Template


@pytest.mark.parametrize(
    ("text", "expected", "resolved"),
    [
        ("", "", 0),
        ("plain", "plain", 0),
        ("$uri", "/a", 1),
        ("<$uri>", "</a>", 1),
        ("$uri$request_method", "/aGET", 2),
        ("${uri}x", "/ax", 1),
        ("${ uri }", "/a", 1),
        ("$urix", "", 0),
        ("$uri.x", "", 0),
        ("$uri-x", "/a-x", 1),
        ("$arg_missing-x", "-x", 0),
        ("${arg_missing ?? none of it}", "none of it", 0),
        ("${arg_missing??none}", "none", 0),
        ("${arg_empty ?? none}", "", 1),
        ("${arg_flag}", "true", 1),
        ("${uri ?? x}", "/a", 1),
        (r"\$uri", r"\$uri", 0),
        (r"\${uri}", r"\${uri}", 0),
        ("$", "$", 0),
        ("$$uri", "$/a", 1),
        ("${}", "${}", 0),
        ("${uri", "${uri", 0),
        ("a ${x y}", "a ${x y}", 0),
        ("100%", "100%", 0),
    ],
)
def test_templates(text: str, expected: str, resolved: int) -> None:
    template = Template(text)
    exchange = exchange_of("/a?empty=&flag")
    assert template.resolve(exchange) == (expected, resolved)
    assert template.render(exchange) == expected


def test_names() -> None:
    assert Template("$uri-${arg_a ?? b}").names == ["uri", "arg_a"]
    assert Template("a").is_constant
    assert not Template("$a").is_constant


def test_values_that_are_no_text() -> None:
    exchange = with_body("application/json", b'{"i": 5, "f": 1.5, "w": 2.0, "l": [1, "a"], "o": {"b": null}}')
    assert Template("$post_arg.i $post_arg.f $post_arg.w").render(exchange) == "5 1.5 2"
    assert Template("$post_arg.l ${post_arg.o}").render(exchange) == '[1,"a"] {"b":null}'


@given(st.text(alphabet="${}?\\ uri_.ab", max_size=20))
def test_any_text_is_a_template(text: str) -> None:
    Template(text).render(exchange_of("/a"))
