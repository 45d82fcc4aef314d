"""Patterns: the tables of routing.md section 3, and what wildcards and parameters capture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.plain_matcher import captures as plain_captures
from tests.worker.routing.making import ask
from worker.routing.pattern import Pattern


@pytest.mark.parametrize(
    ("uri", "matching", "other"),
    [
        ("/foo", ["/foo"], ["/foo/", "/foo/x", "/FOO"]),
        ("/foo/", ["/foo/"], ["/foo"]),
        ("/foo*", ["/foo", "/foobar", "/foo/x"], ["/fo"]),
        ("/foo/*", ["/foo/", "/foo/x/y"], ["/foo"]),
        ("/*", ["/", "/x/y"], []),
        ("*", ["/", "/x/y", "", "*"], []),
        ("/foo/*/bar", ["/foo/a/bar", "/foo/a/b/bar", "/foo//bar", "/foo/\n/bar"], ["/foo/bar", "/foo/a/bar/"]),
        ("/foo/*name/bar", ["/foo/a/bar", "/foo/a/b/bar"], ["/foo/bar"]),
        ("/foo/a*b", ["/foo/axyz", "/foo/a"], ["/foo/b"]),
        ("/user/:id", ["/user/:id"], ["/user/7"]),
        ("/a/*/b/*/c", ["/a/1/b/2/c", "/a/b/b/b/b/c", "/a/1/b/2/b/3/c"], ["/a/1/b/c", "/a/b/2/c"]),
        ("/x/a*b/*", ["/x/a*b/", "/x/a*b/c"], ["/x/aab/c", "/x/a*b"]),
        ("/a.b/*/c", ["/a.b/x/c"], ["/axb/x/c"]),
    ],
)
def test_without_parameters(uri: str, matching: list[str], other: list[str]) -> None:
    pattern = Pattern(uri)
    assert [path for path in matching if not pattern.covers(path.encode())] == []
    assert [path for path in other if pattern.covers(path.encode())] == []


@pytest.mark.parametrize(
    ("uri", "matching", "other"),
    [
        ("/user/:id", ["/user/7", "/user/a.b"], ["/user/7/", "/user/", "/user", "/user/7/x"]),
        ("/user/:id/", ["/user/7/"], ["/user/7", "/user//"]),
        ("/u/:id/post/:pid", ["/u/1/post/2"], ["/u/1/post/", "/u/1/posts/2", "/u//post/2"]),
        ("/files/*path", ["/files/a/b", "/files/"], ["/files"]),
        ("/a:b/c", ["/a", "/axyz"], ["/b"]),
        ("/v1.0/:id", ["/v1.0/7"], ["/v1x0/7"]),
        ("/(/:id", ["/(/7"], []),
        ("/:a/*/z", ["/1/2/z", "/1/2/3/z"], ["/1/z", "//2/z"]),
        ("/*x/:y/z", ["/1/2/z", "/1/2/3/z"], ["/2/z", "/1//z"]),
    ],
)
def test_with_parameters(uri: str, matching: list[str], other: list[str]) -> None:
    pattern = Pattern(uri, has_parameters=True)
    assert [path for path in matching if not pattern.covers(path.encode())] == []
    assert [path for path in other if pattern.covers(path.encode())] == []


@pytest.mark.parametrize(
    ("uri", "path", "captures"),
    [
        ("/exact", "/exact", None),
        ("/foo*", "/foobar", None),
        ("/foo/*", "/foo/a/b", {":ext": "a/b"}),
        ("/foo/*rest", "/foo/", {"rest": ""}),
        ("*", "/a", {":ext": "/a"}),
        ("/user/:id", "/user/7", {"id": "7"}),
        ("/u/:id/post/:pid", "/u/1/post/é", {"id": "1", "pid": "é"}),
        ("/a/*x/b/*y/c", "/a/1/b/2/b/3/c", {"x": "1/b/2", "y": "3"}),
        ("/:a/*x/:b", "/1/2/3/4", {"a": "1", "x": "2/3", "b": "4"}),
    ],
)
def test_captures(uri: str, path: str, captures: dict[str, str] | None) -> None:
    assert Pattern(uri, has_parameters=True).captures(path.encode()) == captures


SEGMENTS = st.lists(st.sampled_from(["", "a", "b", "*", "*x", ":p", "a*", "a:b"]), min_size=1, max_size=6)
PATHS = st.lists(st.sampled_from(["", "a", "b", "ab", "a:b"]), min_size=1, max_size=8)


@given(SEGMENTS.map("/".join), PATHS.map("/".join), st.booleans())
def test_captures_are_those_of_a_greedy_expression(uri: str, path: str, has_parameters: bool) -> None:
    pattern = Pattern(f"/{uri}", has_parameters)
    if pattern.covers(f"/{path}".encode()):
        assert pattern.captures(f"/{path}".encode()) == plain_captures(f"/{uri}", f"/{path}", has_parameters)


def test_captures_are_known_after_the_match() -> None:
    asked = ask("/user/7")
    assert asked.captures is None
    assert asked.request is not None
    asked.request.pattern = Pattern("/user/:id", has_parameters=True)
    assert asked.captures is None


def test_what_has_no_meaning_is_known() -> None:
    assert Pattern("/foo/a*b").ignored == b"b"
    assert Pattern("/foo/a*").ignored == b""
    assert Pattern("/foo/*/b").ignored == b""
    assert Pattern("/a:b", has_parameters=True).ignored == b"b"


def test_many_wildcards_take_no_long_search() -> None:
    pattern = Pattern("/*/b/*/b/*/b/*/b/*/b/*/c")
    assert not pattern.covers(b"/b" * 2000)
