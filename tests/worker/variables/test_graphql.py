"""GraphQL documents: what the scanner finds, held against a parser."""

import contextlib
import json
from urllib.parse import quote

import pytest
from graphql import FieldNode, GraphQLSyntaxError, OperationDefinitionNode, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.exchanges import exchange_of, with_body
from worker.variables import accessor
from worker.variables.graphql import Operation, first_operation


def parsed(document: str) -> Operation | None:
    """Read the first operation with a real parser."""
    for definition in parse(document, no_location=True).definitions:
        if isinstance(definition, OperationDefinitionNode):
            name = definition.name.value if definition.name else ""
            fields = [node.name.value for node in definition.selection_set.selections if isinstance(node, FieldNode)]
            return Operation(name, definition.operation.value, fields)
    return None


DOCUMENTS = [
    "{ a }",
    "{ a b(x: {y: [1, 2]}) { c } d }",
    "query { a }",
    "query Q { a }",
    "mutation M($x: In! = {a: {b: 1}}, $y: [Int!]! = [1]) @d(x: {y: 1}) { save(x: $x) { id } other }",
    "subscription S @on { on }",
    "query on { query mutation: on fragment }",
    "{ alias: a b: c @include(if: $x) d }",
    "{ ...F a ... on T { b } ... { c } ... @skip(if: true) { e } ...G @x f }\nfragment F on T { z }",
    "fragment F on T @d(x: {a: 1}) { x { y } }\nquery Q { a }",
    '{ a(x: "}") b(y: """ } " \\""" """) c(z: "\\"}") }',
    "# {\n{ a # } \n b }",
    "query A { a } query B { b }",
    '{ a(s: "", t: """""") }',
    "{ a(x: 1.5e3, y: -2, z: ENUM, n: null, t: true) }",
    "\ufeff{ a , , b }",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_valid_documents(document: str) -> None:
    assert first_operation(document) == parsed(document)


@pytest.mark.parametrize(
    "document", ["", "x", "query", "{ a", "query Q(", '{ a(x: "}', "{ a ) }", "fragment F on T { x }"]
)
def test_no_operation(document: str) -> None:
    assert first_operation(document) is None


NAME = st.sampled_from(["a", "on", "query", "fragment", "_x1", "type"])
VALUE = st.recursive(
    st.sampled_from(["1", "-2.5e1", '"s"', '"{\\"}"', '"""\n}"""', "$v", "true", "RED", "[]", "{}"]),
    lambda inner: st.builds("[{} {}]".format, inner, inner) | st.builds("{{k: {}, l: {}}}".format, inner, inner),
    max_leaves=4,
)
ARGUMENTS = st.just("") | st.builds("(x: {}, y: {})".format, VALUE, VALUE)
DIRECTIVES = st.just("") | st.builds(" @{}{} ".format, NAME, ARGUMENTS)
SELECTIONS = st.recursive(
    st.just(""),
    lambda inner: st.lists(
        st.builds(
            "{}{}{}{}{}".format,
            st.just("") | st.builds("{}: ".format, NAME),
            NAME,
            ARGUMENTS,
            DIRECTIVES,
            inner,
        )
        | st.builds("... on T{}{}".format, DIRECTIVES, inner.map(lambda text: text or "{ q }"))
        | st.builds("...F{}".format, DIRECTIVES)
        | st.builds("...{}{{ r }}".format, DIRECTIVES),
        min_size=1,
        max_size=3,
    ).map(lambda parts: "{ " + " # }\n ".join(parts) + " }"),
    max_leaves=6,
).filter(bool)
OPERATIONS = st.builds(
    "{} {}{}{} {}".format,
    st.sampled_from(["query", "mutation", "subscription"]),
    NAME,
    st.just("") | st.builds("($v: [T!]! = {}, $w: T)".format, VALUE.filter(lambda text: "$" not in text)),
    DIRECTIVES,
    SELECTIONS,
)
FRAGMENTS = st.builds("fragment G on T{} {}".format, DIRECTIVES, SELECTIONS)


@settings(deadline=None)
@given(st.lists(OPERATIONS | FRAGMENTS, min_size=1, max_size=3).map("\n".join) | SELECTIONS)
def test_scanner_agrees_with_the_parser(document: str) -> None:
    try:
        expected = parsed(document)
    except GraphQLSyntaxError:
        return
    assert first_operation(document) == expected


@given(st.text(alphabet='{}()[]:$@"\\#. \nax', max_size=60))
def test_whatever_parses_is_found(document: str) -> None:
    found = first_operation(document)
    with contextlib.suppress(GraphQLSyntaxError):
        assert found == parsed(document)


QUERY = "query Q { a b }"


def test_where_documents_come_from() -> None:
    as_json = json.dumps({"query": QUERY}).encode()
    for exchange in (
        exchange_of(f"/?query={quote(QUERY)}"),
        with_body("application/json", as_json),
        with_body("application/graphql", QUERY.encode()),
    ):
        assert accessor("graphql_name")(exchange) == "Q"
        assert accessor("graphql_operation")(exchange) == "query"
        assert accessor("graphql_root_fields")(exchange) == ["a", "b"]


@pytest.mark.parametrize(
    "exchange",
    [
        exchange_of("/"),
        exchange_of("/?query"),
        exchange_of(f"/?query={quote(QUERY)}", method="PUT"),
        with_body("application/json", b'{"query": 1}'),
        with_body("application/json", b"[]"),
        with_body("application/graphql", b" " * (1 << 20) + QUERY.encode()),
    ],
)
def test_no_document(exchange: object) -> None:
    assert accessor("graphql_name")(exchange) is None  # type: ignore[arg-type]
