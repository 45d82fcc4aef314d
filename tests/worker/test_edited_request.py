"""EditedRequest: a copy that may be changed."""

from tests.fakes.exchanges import exchange_of
from worker.edited_request import EditedRequest, RepeatedRequest, edit
from worker.messages import Request


def test_a_copy_is_equal_in_all_that_a_request_says() -> None:
    request = exchange_of("/a?b", host="A.com:81").request
    assert request is not None
    edited = EditedRequest(request)
    own = {"wire", "matched_at", "repeated"}
    assert [
        slot for slot in Request.__slots__ if slot not in own and getattr(edited, slot) != getattr(request, slot)
    ] == []
    assert edited.wire == request.wire
    assert (edited.original, edited.matched_at) == (request, -1)


def test_a_repeated_request_is_copied_before_it_is_changed() -> None:
    exchange = exchange_of("/a?b")
    original = exchange.request
    edited = edit(exchange)
    edited.upstream_target = b"/c"
    edited.set_method(b"PUT")
    repeated = exchange.request = RepeatedRequest(edited)
    again = edit(exchange)
    assert again is not repeated
    assert edit(exchange) is again
    assert (again.wire, again.original) == (repeated.wire, original)
    again.add_field(b"X-A", b"b")
    assert b"X-A" in again.wire
    assert b"X-A" not in repeated.wire
