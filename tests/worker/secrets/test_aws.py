"""How AWS Secrets Manager is asked, and what is made of its answers."""

import asyncio
import hashlib
import hmac
import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from config_sync import schema
from config_sync.errors import ConfigError
from config_sync.secrets import Resolver
from tests.fakes.http_service import Asked, HttpService
from worker.plugins.http_client import HttpClient
from worker.secrets.aws import AwsSource, Signer
from worker.secrets.source import SecretFailed, SecretNotThere

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{8})/([\w-]+)/secretsmanager/aws4_request, "
    r"SignedHeaders=([\w;-]+), Signature=([0-9a-f]{64})"
)


class Aws(HttpService):
    """A Secrets Manager that believes who signs."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.error: tuple[int, bytes] | None = None
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> tuple[int, bytes]:
        if self.error is not None:
            return self.error
        if not self._is_signed(asked):
            return 400, b'{"__type":"InvalidSignatureException","message":"no"}'
        if asked.fields["x-amz-target"] != "secretsmanager.GetSecretValue":
            return 400, b'{"__type":"UnknownOperationException"}'
        value = self.values.get(json.loads(asked.body)["SecretId"])
        if value is None:
            return 400, b'{"__type":"com.amazonaws#ResourceNotFoundException","Message":"none"}'
        return 200, json.dumps({"ARN": "arn", "SecretString": value}).encode()

    def _is_signed(self, asked: Asked) -> bool:
        """Compute the signature once more, from what has come."""
        found = _AUTHORIZATION.fullmatch(asked.fields["authorization"])
        assert found is not None
        day, region, names, signature = found.groups()
        lines = "".join(f"{name}:{asked.fields[name]}\n" for name in names.split(";"))
        digest = hashlib.sha256(asked.body).hexdigest()
        request = f"{asked.method}\n{asked.path}\n\n{lines}\n{names}\n{digest}"
        moment = asked.fields["x-amz-date"]
        scope = f"{day}/{region}/secretsmanager/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = b"AWS4" + SECRET.encode()
        for part in (day, region, "secretsmanager", "aws4_request"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        return moment.startswith(day) and hmac.new(key, text.encode(), "sha256").hexdigest() == signature


@pytest.fixture
def aws() -> Iterator[Aws]:
    running = Aws({"jack": '{"key":"k"}', "team/jill": "plain"})
    yield running
    running.close()


def fetch(aws: Aws, name: str = "jack", **more: Any) -> Any:
    settings = {
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": "$env://SECRET",
        "endpoint_url": aws.url,
        **more,
    }

    async def work() -> Any:
        http = HttpClient(asyncio.get_running_loop())
        try:
            return await AwsSource(schema.Aws(**settings), http, Resolver({"SECRET": SECRET})).fetch(name)
        finally:
            http.close()
            await asyncio.sleep(0)

    return asyncio.run(work())


def test_the_signature_of_the_example_in_the_documentation_of_aws() -> None:
    signer = Signer("AKIDEXAMPLE", SECRET, "us-east-1", "iam")
    fields = {
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "host": "iam.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
    }
    assert signer.authorization("GET", "/", "Action=ListUsers&Version=2010-05-08", fields, b"") == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_a_secret_is_its_text(aws: Aws) -> None:
    assert fetch(aws) == '{"key":"k"}'
    assert fetch(aws, "team/jill", region="eu-central-1") == "plain"
    first, second = aws.asked
    assert json.loads(first.body) == {"SecretId": "jack", "VersionStage": "AWSCURRENT"}
    assert first.fields["content-type"] == "application/x-amz-json-1.1"
    assert "/us-east-1/" in first.fields["authorization"]
    assert "/eu-central-1/" in second.fields["authorization"]


def test_a_token_of_a_session_is_sent_and_signed(aws: Aws) -> None:
    assert fetch(aws, session_token="t") == '{"key":"k"}'
    assert aws.asked[0].fields["x-amz-security-token"] == "t"
    assert "x-amz-security-token" in aws.asked[0].fields["authorization"]


def test_what_is_not_there_is_told_apart_from_what_cannot_be_known(aws: Aws) -> None:
    with pytest.raises(SecretNotThere):
        fetch(aws, "nobody")
    with pytest.raises(SecretFailed, match="400 InvalidSignatureException"):
        fetch(aws, secret_access_key="other")
    with pytest.raises(SecretFailed, match="what secret_access_key refers to"):
        fetch(aws, secret_access_key="$env://NONE")
    with pytest.raises(SecretFailed, match=r"127\.0\.0\.1:1"):
        fetch(aws, endpoint_url="http://127.0.0.1:1")
    aws.error = 200, b'{"SecretBinary":"AAAA"}'
    with pytest.raises(SecretFailed, match="no text"):
        fetch(aws)
    aws.error = 500, b"<html>"
    with pytest.raises(SecretFailed):
        fetch(aws)


def test_without_an_http_client_nothing_can_be_asked(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install propylon\[http\]"):
        fetch(aws)
