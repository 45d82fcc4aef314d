"""References: what is one, what it names, what it stands for."""

import pytest

from config_sync.secrets import Resolver, SecretReference, is_reference, parse

ENVIRONMENT = {"KEY": "k", "EMPTY": "", "JSON": '{"a": "x", "n": 1, "b": true, "o": {}, "z": null}', "DEEP": "[" * 5000}


class Vault:
    def __init__(self) -> None:
        self.asked: list[SecretReference] = []

    def secret(self, reference: SecretReference) -> str | None:
        self.asked.append(reference)
        return "found" if reference.key == "password" else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("$env://A", True), ("$ENV://A", True), ("$secret://vault/1/a/b", True), ("$Secret://", True)),
        *(
            ("", False),
            ("$", False),
            ("env://A", False),
            ("$env:/A", False),
            (" $env://A", False),
            ("$remote_addr", False),
        ),
    ],
)
def test_what_is_a_reference(text: str, expected: bool) -> None:
    assert is_reference(text) is expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("$secret://vault/1/jack/password", ("vault", "1", "jack", "password")),
        ("$SECRET://aws/1/team/jack/key", ("aws", "1", "team/jack", "key")),
        ("$secret://gcp/1/name", ("gcp", "1", "name", "")),
        ("$secret://gcp/1/", None),
        ("$secret://gcp/1/name/", None),
        ("$secret://gcp//name", None),
        ("$secret://gcp", None),
        ("$env://A/b/c/d", None),
    ],
)
def test_parts_of_a_reference(text: str, parts: tuple[str, ...] | None) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        *(("$env://KEY", "k"), ("$Env://KEY", "k"), ("$env://EMPTY", ""), ("$env://key", None), ("$env://", None)),
        *(("$env://JSON/a", "x"), ("$env://JSON/n", "1"), ("$env://JSON/b", "true"), ("$env://JSON/o", None)),
        *(("$env://JSON/z", None), ("$env://JSON/c", None), ("$env://KEY/a", None), ("$env://DEEP/a", None)),
        *(("KEY", None), ("$secret://moon/1/a/b", None)),
    ],
)
def test_what_references_stand_for(reference: str, expected: str | None) -> None:
    assert Resolver(ENVIRONMENT).resolve(reference) == expected


def test_managers_are_asked_by_name() -> None:
    vault = Vault()
    resolver = Resolver(ENVIRONMENT)
    resolver.register("vault", vault)
    assert resolver.resolve("$secret://vault/1/jack/password") == "found"
    assert resolver.resolve("$secret://vault/1/jack/other") is None
    assert vault.asked[0] == SecretReference("vault", "1", "jack", "password")


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPYLON_TEST", "here")
    assert Resolver().resolve("$env://PROPYLON_TEST") == "here"
