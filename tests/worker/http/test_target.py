"""Request targets and the paths that routes see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from config_sync.settings import RouterSettings
from worker.errors import BadRequest
from worker.http.target import PathRules, normalised_path, path_rules, split_absolute


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a?x=/../", b"/a"),
        (b"/a#b?c", b"/a"),
        (b"/a%20b", b"/a b"),
        (b"/x//./y", b"/x/y"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a%2Fb", b"/a/b"),
        (b"/a/%2e%2e/b", b"/b"),
        (b"/.hidden", b"/.hidden"),
        (b"/...", b"/..."),
    ],
)
def test_normalised_path(target: bytes, path: bytes) -> None:
    assert normalised_path(target) == path


@pytest.mark.parametrize("target", [b"/..", b"/a/../../b", b"/%", b"/%2", b"/%zz", b"/%00", b"/%2e%2e/"])
def test_refused_targets(target: bytes) -> None:
    with pytest.raises(BadRequest):
        normalised_path(target)


@given(st.lists(st.sampled_from([b"/", b"a", b".", b"..", b"%2e", b"%2F", b"b"]), max_size=12))
def test_normalised_paths_stay_as_they_are(parts: list[bytes]) -> None:
    try:
        path = normalised_path(b"/" + b"".join(parts))
    except BadRequest:
        return
    assert path.startswith(b"/")
    assert b"//" not in path
    assert not {b".", b".."} & set(path.split(b"/"))
    assert normalised_path(path) == path


def test_absolute_form() -> None:
    assert split_absolute(b"http://A.b:80/x?y") == (b"A.b:80", b"/x?y")
    assert split_absolute(b"http://a") == (b"a", b"/")
    assert split_absolute(b"http://a?q") == (b"a", b"/?q")


@pytest.mark.parametrize("target", [b"x", b"ftp://a/", b"http://", b"http://u@a/", b"http:///x"])
def test_refused_absolute_forms(target: bytes) -> None:
    with pytest.raises(BadRequest):
        split_absolute(target)


def rules(switched_on: dict[str, bool]) -> PathRules:
    made = path_rules(convert(switched_on, RouterSettings))
    assert made is not None
    return made


def test_without_options_there_are_no_rules() -> None:
    assert path_rules(RouterSettings(http="radixtree_uri", verify_interval=1.0)) is None


@pytest.mark.parametrize(
    ("options", "target", "sent", "path", "matched"),
    [
        ({"delete_uri_tail_slash": True}, b"/a/?q", b"/a/?q", b"/a", b"/a"),
        ({"delete_uri_tail_slash": True}, b"/a", b"/a", b"/a", b"/a"),
        ({"delete_uri_tail_slash": True}, b"/", b"/", b"", b""),
        ({"normalize_uri_like_servlet": True}, b"/a;v=1/b;c?x;y", b"/a;v=1/b;c?x;y", b"/a/b", b"/a/b"),
        ({"normalize_uri_like_servlet": True}, b"/%61%20%3Bx/../b;p", b"/b;p", b"/b", b"/b"),
        ({"normalize_uri_like_servlet": True}, b"/a%3Fb%3B/c", b"/a%3Fb;/c", b"/a?b/c", b"/a?b/c"),
        ({"normalize_uri_like_servlet": True}, b"/a/b?c", b"/a/b?c", b"/a/b", b"/a/b"),
        ({"match_uri_encoded_slash": True}, b"/a%2fb/c", b"/a%2fb/c", b"/a/b/c", b"/a%2Fb/c"),
        ({"match_uri_encoded_slash": True}, b"/a%252Fb", b"/a%252Fb", b"/a%2Fb", b"/a%2Fb"),
        ({"match_uri_encoded_slash": True}, b"/a%2Fb%252F", b"/a%2Fb%252F", b"/a/b%2F", b"/a/b%2F"),
        ({"match_uri_encoded_slash": True}, b"/a%2F../b", b"/a%2F../b", b"/b", b"/b"),
        ({"match_uri_encoded_slash": True}, b"/a%2Fb/../..", b"/a%2Fb/../..", b"/", b"/"),
        ({"match_uri_encoded_slash": True}, b"/a/b?x=%2F", b"/a/b?x=%2F", b"/a/b", b"/a/b"),
        ({"match_uri_encoded_slash": True, "delete_uri_tail_slash": True}, b"/a%2Fb/", b"/a%2Fb/", b"/a/b", b"/a%2Fb"),
        ({"match_uri_encoded_slash": True, "normalize_uri_like_servlet": True},
         b"/a%2Fb;p/c", b"/a/b;p/c", b"/a/b/c", b"/a%2Fb/c"),
    ],
)  # fmt: skip
def test_options(options: dict[str, bool], target: bytes, sent: bytes, path: bytes, matched: bytes) -> None:
    assert rules(options).apply(target, normalised_path(target)) == (sent, path, matched)


@pytest.mark.parametrize("target", [b"/;a", b"/a/;b/c", b"/a/.;/b", b"/a/..;x/b"])
def test_segments_of_parameters_alone_are_refused(target: bytes) -> None:
    with pytest.raises(BadRequest):
        rules({"normalize_uri_like_servlet": True}).apply(target, normalised_path(target))
