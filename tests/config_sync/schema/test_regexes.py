"""Regular expressions: what is refused, and that no search takes long."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import FREE_STEPS, SEARCH_TIMEOUT, Regex, check_regex, estimate


@pytest.mark.parametrize(
    ("pattern", "subject", "is_found"),
    [
        ("^/v2", "/v2/users", True),
        ("^/v2", "/x/v2", False),
        ("b", "abc", True),
        (r"(?<=a)b(?!d)", "abc", True),
        (r"(?<year>\d{4})-(?P=year)", "2024-2024", True),
        (r"a++b", "aaab", True),
        (r"(?>a+)ab", "aaab", False),
        (r"\d", "٣", False),
        (r"[[:alpha:]]", "1a", True),
        (r"^a$", "a\n", True),
        (r"\Aa\z", "a\n", False),
    ],
)
def test_searches(pattern: str, subject: str, is_found: bool) -> None:
    assert Regex(pattern).matches(subject) is is_found


def test_case() -> None:
    assert not Regex("ABC").matches("abc")
    assert Regex("ABC", is_case_ignored=True).matches("xabcx")


@pytest.mark.parametrize(
    "pattern", ["(", "*a", "a**", "\\", "[z-a]", "(?P<a", "x" * 4097, "(?:a{1000}){1000}", "a{99999}"]
)
def test_refused(pattern: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        check_regex(pattern, "$.vars[0][2]")
    assert caught.value.path == "$.vars[0][2]"


def test_not_a_text() -> None:
    with pytest.raises(InvalidResource):
        check_regex(1, "$")


@pytest.mark.parametrize(
    ("pattern", "degree", "factor", "is_polynomial"),
    [
        ("abc", 1, 1, True),
        ("^abc", 0, 1, True),
        ("^abc|d", 1, 2, True),
        ("a+b", 2, 1, True),
        ("^a+b*", 2, 1, True),
        ("^a?b?[*+?]{2,4}", 0, 12, True),
        (r"^\*\[(?:Chrome|Firefox)", 1, 2, True),
        ("^a{3}b{2,}", 1, 1, True),
        ("(ab)?", 1, 2, True),
        ("(ab)+", 2, 1, False),
        ("(a|b){3}", 1, 2, False),
        (r"(a)\1", 1, 1, False),
        ("(?x) a", 1, 1, False),
        ("(?R)", 1, 1, False),
        ("(?i)a", 1, 1, True),
        ("(?i:a)", 1, 1, True),
        ("(?P<n>a)", 1, 1, True),
        ("(?P=n)", 1, 1, False),
        ("[]*+(]", 1, 1, True),
        ("[^]*+(]", 1, 1, True),
        ("[[:alpha:]*]", 1, 1, True),
        ("a{,2}{", 1, 3, True),
        ("a{x}", 1, 1, True),
    ],
)
def test_effort(pattern: str, degree: int, factor: int, is_polynomial: bool) -> None:
    effort = estimate(pattern)
    assert (effort.degree, effort.factor, effort.is_polynomial) == (degree, factor, is_polynomial)


def test_the_free_length_shrinks_with_the_degree() -> None:
    lengths = [estimate(pattern).free_length() for pattern in ("^a", "^a+", "a+", "a+b+", "a+b+c+", "(a+)+")]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[1] == FREE_STEPS
    assert lengths[-1] == -1


EVIL = ["(a|aa)+[bc]", "(a+)+[bc]", "a+a+a+a+a+[bc]", r"^(\w+\s?)*[!?]", "(.*)*[xy]", "a?" * 30 + "a{30}"]


@pytest.mark.parametrize("pattern", EVIL)
@pytest.mark.parametrize("length", [10, 25, 40, 1000, 100_000])
def test_no_search_takes_long(pattern: str, length: int) -> None:
    regex = Regex(pattern)
    begun = time.process_time()
    with contextlib.suppress(TimeoutError):
        regex.matches("a" * length)
    assert time.process_time() - begun < 100 * SEARCH_TIMEOUT  # the other outcome is minutes


PIECES = st.sampled_from([*"ab()[]{}*+?|^$\\.,:<>=!-1d", "(?:", "{2,3}", "a+", "[^"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_text_is_compiled_or_refused(pattern: str) -> None:
    estimate(pattern)
    try:
        regex = Regex(pattern)
    except ValueError:
        return
    with contextlib.suppress(TimeoutError):
        regex.matches("ab" * 20)
