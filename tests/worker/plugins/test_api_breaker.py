"""api-breaker (plugins.md section 5)."""

import asyncio
from typing import Any

import pytest

from tests.worker.plugins.counting import Counting
from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit, UpstreamRequest
from worker.shared_state.locks import Busy

BROKEN = {"break_response_code": 502}


def answering(kit: PluginKit, status: int) -> None:
    kit.upstream_answers = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status


def asked(kit: PluginKit, times: int, status: int, **request: Any) -> list[int]:
    """Ask, and return the answers; 0 stands for one that came from the upstream."""
    answering(kit, status)
    answers = [kit.request(**request) for _ in range(times)]
    return [answer.status if answer.upstream is None else 0 for answer in answers]


def test_the_circuit_opens_for_longer_and_longer() -> None:
    counting = Counting()
    with counting.begin(PluginKit({"api-breaker": {**BROKEN, "max_breaker_sec": 5}})) as kit:
        assert asked(kit, 4, 500) == [0, 0, 0, 502]
        counting.clock.seconds += 1.9
        assert asked(kit, 1, 500) == [502]
        counting.clock.seconds += 0.1
        assert asked(kit, 4, 500) == [0, 0, 0, 502]
        counting.clock.seconds += 3.9
        assert asked(kit, 1, 500) == [502]
        counting.clock.seconds += 0.1
        assert asked(kit, 4, 500) == [0, 0, 0, 502]
        counting.clock.seconds += 4.9  # not 8
        assert asked(kit, 1, 500) == [502]
        counting.clock.seconds += 0.1
        assert asked(kit, 3, 200) == [0, 0, 0]
        assert asked(kit, 4, 500) == [0, 0, 0, 502]
        counting.clock.seconds += 2
        assert asked(kit, 1, 500) == [0]


def test_successes_in_a_row_close_it() -> None:
    config = {**BROKEN, "unhealthy": {"failures": 2}, "healthy": {"successes": 2}}
    with PluginKit({"api-breaker": config}) as kit:
        assert asked(kit, 1, 500) == [0]
        assert asked(kit, 1, 200) == [0]
        assert asked(kit, 2, 404) == [0, 0]
        assert asked(kit, 2, 200) == [0, 0]  # forgotten
        assert asked(kit, 1, 500) == [0]
        assert asked(kit, 1, 200) == [0]
        assert asked(kit, 2, 500) == [0, 502]


def test_statuses_that_count() -> None:
    config = {
        **BROKEN,
        "unhealthy": {"http_statuses": [503, 504], "failures": 1},
        "healthy": {"http_statuses": [404], "successes": 1},
    }
    counting = Counting()
    with counting.begin(PluginKit({"api-breaker": config})) as kit:
        assert asked(kit, 3, 500) == [0, 0, 0]
        assert asked(kit, 2, 504) == [0, 502]
        counting.clock.seconds += 2
        assert asked(kit, 2, 200) == [0, 0]
        assert asked(kit, 2, 503) == [0, 502]
        counting.clock.seconds += 4
        assert asked(kit, 1, 404) == [0]
        assert asked(kit, 2, 503) == [0, 502]
        counting.clock.seconds += 2  # not 8
        assert asked(kit, 1, 200) == [0]


def test_what_the_gateway_answers_itself_does_not_count_but_a_failed_try_does() -> None:
    config = {**BROKEN, "unhealthy": {"http_statuses": [500, 502], "failures": 1}}
    with PluginKit({"api-breaker": config, "mocking": {"response_example": "x", "response_status": 500}}) as kit:
        assert [kit.request().status for _ in range(3)] == [500] * 3
    with PluginKit({"api-breaker": {**config, "break_response_code": 599}}) as kit:
        kit.upstream_answers = b"nonsense\r\n\r\n"
        assert [kit.request().status for _ in range(3)] == [502, 599, 599]


def test_hosts_and_paths_are_told_apart() -> None:
    with PluginKit({"api-breaker": {**BROKEN, "unhealthy": {"failures": 1}}}) as kit:
        assert asked(kit, 2, 500, target="/a?x=1", host="a.com") == [0, 502]
        assert asked(kit, 1, 500, target="/a?x=2", host="a.com") == [502]
        assert asked(kit, 2, 500, target="/b", host="a.com") == [0, 502]
        assert asked(kit, 2, 500, target="/a", host="b.com") == [0, 502]


@pytest.mark.parametrize("body", [None, "broken\n"])
def test_what_is_answered(body: str | None) -> None:
    headers = [{"key": "X-Path", "value": "at $uri"}, {"key": "Content-Type", "value": "application/json"}]
    config = {**BROKEN, "break_response_code": 599, "break_response_headers": headers, "unhealthy": {"failures": 1}}
    with PluginKit({"api-breaker": config | ({"break_response_body": body} if body else {})}) as kit:
        asked(kit, 1, 500)
        answer = kit.request()
        if body:
            assert (answer.status, answer.body, answer.header("x-path")) == (599, body.encode(), "at /")
            assert answer.headers("content-type") == ["application/json"]
        else:
            assert (answer.status, answer.header("x-path")) == (599, None)
            assert b"<h1>599</h1>" in answer.body


def test_workers_share_it() -> None:
    counting = Counting()
    kits = [counting.begin(PluginKit({"api-breaker": BROKEN}), number) for number in range(2)]
    with kits[0] as one, kits[1] as two:
        assert [asked(kit, 1, 500)[0] for kit in (one, two, one, two, one)] == [0, 0, 0, 502, 502]


def test_what_cannot_be_noted_at_once_is_noted_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with PluginKit({"api-breaker": {**BROKEN, "unhealthy": {"failures": 1}}}) as kit:
        notes = kit.context.plugins.services.notes
        busy = [True, True]
        update = type(notes).update

        def updated(self: Any, *arguments: Any, **more: Any) -> None:
            if busy and busy.pop():
                raise Busy
            update(self, *arguments, **more)

        monkeypatch.setattr(type(notes), "update", updated)
        assert asked(kit, 1, 500) == [0]

        async def noted() -> None:
            while busy or not notes.get(b"api-breaker:routes/kit:a.com/"):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)

        kit.run(noted())
        assert asked(kit, 1, 500) == [502]


def test_answers_may_change_between_tries() -> None:
    answers = [b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]

    def answer(_: UpstreamRequest) -> bytes:
        return answers.pop(0)

    with PluginKit({"api-breaker": {**BROKEN, "unhealthy": {"failures": 1}, "healthy": {"successes": 1}}}) as kit:
        kit.upstream_answers = answer
        assert [kit.request().status for _ in range(2)] == [500, 502]
        assert len(answers) == 1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "break_response_code"),
        ({"break_response_code": 199}, ".break_response_code"),
        ({"break_response_code": 600}, ".break_response_code"),
        ({**BROKEN, "max_breaker_sec": 2}, ".max_breaker_sec"),
        ({**BROKEN, "unhealthy": {"http_statuses": [499]}}, ".unhealthy.http_statuses[0]"),
        ({**BROKEN, "unhealthy": {"http_statuses": []}}, ".unhealthy.http_statuses"),
        ({**BROKEN, "unhealthy": {"failures": 0}}, ".unhealthy.failures"),
        ({**BROKEN, "healthy": {"http_statuses": [500]}}, ".healthy.http_statuses[0]"),
        ({**BROKEN, "healthy": {"successes": 0}}, ".healthy.successes"),
        ({**BROKEN, "break_response_headers": [{"key": "a b", "value": "c"}]}, ".break_response_headers[0]"),
        ({**BROKEN, "break_response_headers": [{"key": "a"}]}, ".break_response_headers[0]"),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("api-breaker", config)
