"""fault-injection (plugins.md section 6)."""

import time
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_abort_answers_with_what_is_given() -> None:
    abort = {"http_status": 503, "body": "on $uri: ${arg_x ?? none}\n", "headers": {"X-A": "a-$arg_x", "X-N": 7}}
    with PluginKit({"fault-injection": {"abort": abort}}) as kit:
        answer = kit.request(target="/p?x=1")
        assert (answer.status, answer.body, answer.upstream) == (503, b"on /p: 1\n", None)
        assert answer.header("x-a") == "a-1"
        assert answer.header("x-n") == "7"
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert kit.request(target="/p").body == b"on /p: none\n"


def test_without_a_body_there_is_the_page() -> None:
    with PluginKit({"fault-injection": {"abort": {"http_status": 403}}}) as kit:
        assert b"<h1>403 Forbidden</h1>" in kit.request().body
    with PluginKit({"fault-injection": {"abort": {"http_status": 200, "body": ""}}}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body, answer.upstream) == (200, b"", None)


def test_a_content_type_replaces_the_usual_one() -> None:
    abort = {"http_status": 200, "body": "{}", "headers": {"content-type": "application/json"}}
    with PluginKit({"fault-injection": {"abort": abort}}) as kit:
        assert kit.request().headers("content-type") == ["application/json"]


def test_variables_bring_no_lines_into_the_head() -> None:
    abort = {"http_status": 200, "body": "x", "headers": {"X-A": "$arg_x"}}
    with PluginKit({"fault-injection": {"abort": abort}}) as kit:
        answer = kit.request(target="/?x=a%0d%0aX-B:+c")
        assert (answer.status, answer.header("x-a"), answer.header("x-b")) == (200, "a  X-B: c", None)


@pytest.mark.parametrize(
    ("target", "status"), [("/?a=1", 418), ("/?b=2", 418), ("/?a=2", 200), ("/", 200), ("/?a=1&c=0", 200)]
)
def test_one_of_the_expressions_must_be_true(target: str, status: int) -> None:
    either = [[["arg_a", "==", "1"], ["arg_c", "==", None]], [["arg_b", "==", "2"]]]
    with PluginKit({"fault-injection": {"abort": {"http_status": 418, "vars": either}}}) as kit:
        assert kit.request(target=target).status == status


@pytest.mark.parametrize(("percentage", "least", "most"), [(0, 0, 0), (100, 200, 200), (50, 50, 150)])
def test_percentage(percentage: int, least: int, most: int) -> None:
    with PluginKit({"fault-injection": {"abort": {"http_status": 418, "percentage": percentage}}}) as kit:
        answers = kit.requests([("GET", "/", {}, b"")] * 200)
        assert least <= sum(answer.status == 418 for answer in answers) <= most


def test_the_delay_comes_first() -> None:
    config = {"delay": {"duration": 0.1, "vars": [[["arg_slow", "==", "1"]]]}, "abort": {"http_status": 418}}
    with PluginKit({"fault-injection": config}) as kit:
        began = time.monotonic()
        assert kit.request(target="/?slow=1").status == 418
        assert time.monotonic() - began >= 0.1
    with PluginKit({"fault-injection": {"delay": {"duration": 0.1}}}) as kit:
        began = time.monotonic()
        answer = kit.request()
        assert (answer.status, answer.body) == (200, b"ok")
        assert time.monotonic() - began >= 0.1
    with PluginKit({"fault-injection": {"delay": {"duration": 60, "percentage": 0}}}) as kit:
        assert kit.request().status == 200


@pytest.mark.parametrize("delay", [{}, {"delay": {"duration": 0.001}}])
def test_expressions_and_templates_may_ask_for_the_body(delay: dict[str, Any]) -> None:
    abort = {"http_status": 418, "body": "$post_arg_a", "vars": [[["post_arg_a", "~~", "^x"]]]}
    with PluginKit({"fault-injection": {"abort": abort, **delay}}) as kit:
        answer = kit.request("POST", "/", {**FORM, "Content-Length": "20002"}, b"a=" + b"x" * 20_000)
        assert (answer.status, answer.body) == (418, b"x" * 20_000)
        assert kit.request("POST", "/", {**FORM, "Content-Length": "3"}, b"a=y").status == 200


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": abort or delay must be given"),
        ({"abort": {}}, ".abort: "),
        ({"abort": {"http_status": 199}}, ".abort.http_status: "),
        ({"abort": {"http_status": 200, "percentage": 101}}, ".abort.percentage: "),
        ({"abort": {"http_status": 200, "vars": [[["a", "?", "b"]]]}}, ".abort.vars[0]"),
        ({"abort": {"http_status": 200, "headers": {"a b": "c"}}}, ".abort.headers"),
        ({"abort": {"http_status": 200, "headers": {"content-length": 5}}}, ".abort.headers"),
        ({"delay": {"percentage": 1}}, ".delay: "),
        ({"delay": {"duration": -1}}, ".delay.duration: "),
        ({"delay": {"duration": 1, "percentage": -1}}, ".delay.percentage: "),
        ({"delay": {"duration": 1, "vars": [[["a", "?", "b"]]]}}, ".delay.vars[0]"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("fault-injection", config).startswith(fault)
