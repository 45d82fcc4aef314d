"""Lets requests through whose fields and body are what a JSON Schema (draft 7) demands.

    header_schema, body_schema    one is required
    rejected_code, rejected_msg   what others get; without a message what the validator says
    max_req_body_size             bytes; a larger body gets 413

Fields have their names in lower case; one that is repeated is an array, and a repeated Content-Type is refused. A body
of type ``application/x-www-form-urlencoded`` is an object of texts, and goes upstream as it is; every other is JSON,
and goes upstream written anew, with the defaults of its properties. Bodies above 128 KiB, and long forms, are validated
in a process of their own. References to other documents are not followed. Needs ``pip install propylon[validation]``.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.edited_request import edit
from worker.errors import BodyNeeded, BodyTooLarge, PluginFailed
from worker.fields import FieldLines
from worker.messages import NO_BODY
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.body_check import Invalid, Job, Schema
from worker.variables.body import FORM, MOST_BUILT
from worker.variables.values import Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

AT_A_TIME = 2  # processes
MOST_FIELDS = 250  # of a form, which are read here; each costs up to 4 us
LONGEST = 60.0  # seconds for one


class RequestValidationConfig(msgspec.Struct):
    """What is demanded, and what others get."""

    header_schema: dict[str, Any] | None = None
    body_schema: dict[str, Any] | None = None
    rejected_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 400
    rejected_msg: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    max_req_body_size: Annotated[int, msgspec.Meta(ge=1)] = 67_108_864


class RequestValidation(Plugin[RequestValidationConfig]):
    """Validates fields and bodies."""

    name = "request-validation"
    priority = 2800
    Config = RequestValidationConfig

    def __init__(self, config: RequestValidationConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._header = _compiled(config.header_schema, "$.header_schema")
        self._body = _compiled(config.body_schema, "$.body_schema")
        self._room = asyncio.Semaphore(AT_A_TIME)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is a schema."""
        if config.header_schema is None and config.body_schema is None:
            raise InvalidResource("$", "header_schema or body_schema must be given")
        _compiled(config.header_schema, "$.header_schema")
        _compiled(config.body_schema, "$.body_schema")

    def rewrite(self, exchange: "Exchange") -> Answer | Coroutine[Any, Any, Answer | None] | None:
        """Refuse what is not valid."""
        request = exchange.request
        assert request is not None  # noqa: S101 - only requests that were read come to plugins
        fields = FieldLines(request.block[2:-2])
        types = fields.get_all(b"content-type")
        if len(types) > 1:
            return self._refusal("Content-Type is repeated")
        try:
            if self._header is not None:
                self._header.check(headers_of(fields))
            if self._body is None:
                return None
            body = self._received(exchange)
            is_form = bool(types) and types[0].lower().startswith(FORM.encode())
            if len(body) > MOST_BUILT or (is_form and body.count(b"&") > MOST_FIELDS):
                return self._apart(exchange, body, is_form)
            self._send_on(exchange, body, self._body.checked(body, is_form))
        except Invalid as error:
            return self._refusal(str(error))
        return None

    def _received(self, exchange: "Exchange") -> bytes:
        """Return the body; BodyNeeded, BodyTooLarge."""
        request, limit = exchange.request, self.config.max_req_body_size
        assert request is not None  # noqa: S101 - as above
        received = exchange.body.received if exchange.body is not None else 0
        if max(received, request.content_length) > limit:
            raise BodyTooLarge(f"body larger than {limit} bytes, the limit of request-validation")
        body = exchange.buffered_body
        if not body and received and received <= limit:
            exchange.buffered_body = body = None  # somebody with a smaller limit has had it read
        if body is None and request.framing is not NO_BODY:
            raise BodyNeeded(limit)
        return body or b""

    async def _apart(self, exchange: "Exchange", body: bytes, is_form: bool) -> Answer | None:
        """Validate in a process: msgspec and the validator would keep the loop for as long as they take."""
        job = msgspec.json.encode(Job(self.config.body_schema or {}, is_form)) + b"\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        async with self._room:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "worker.plugins.body_check"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
            try:
                answer, _ = await asyncio.wait_for(process.communicate(job + body), LONGEST)
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if answer[:1] == b"1":
            return self._refusal(answer[1:].decode())
        if answer[:1] != b"0":
            raise PluginFailed("request-validation: the process that validates has failed")
        self._send_on(exchange, body, answer[1:])
        return None

    def _send_on(self, exchange: "Exchange", body: bytes, checked: bytes) -> None:
        if checked != body:
            edit(exchange).set_body(exchange, checked)

    def _refusal(self, reason: str) -> Answer:
        return Answer(self.config.rejected_code, (self.config.rejected_msg or reason).encode("utf-8", "replace"))


def headers_of(fields: FieldLines) -> dict[str, Value]:
    """Return the fields by their names in lower case; the values of one that is repeated as an array."""
    found: dict[str, Value] = {}
    for name, value in fields.items():
        key, text = text_of(name.lower()), value.decode("utf-8", "replace")
        before = found.get(key)
        if before is None:
            found[key] = text
        else:
            found[key] = [*before, text] if isinstance(before, list) else [before, text]
    return found


def _compiled(schema: dict[str, Any] | None, path: str) -> Schema | None:
    if schema is None:
        return None
    try:
        return Schema(schema)
    except ImportError as error:
        raise InvalidResource(path, "needs a library: pip install propylon[validation]") from error
    except ValueError as error:
        raise InvalidResource(path, str(error)) from error
