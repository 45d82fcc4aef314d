"""Cutting a stream as a network may."""

from collections.abc import Iterable
from itertools import pairwise


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut data at places that are taken modulo its length."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
