"""What a worker has applied lately, so that it can be repeated to a sibling that lacks some of it.

Every worker keeps a history, also while it follows: it may lead next. Batches are numbered; a follower's place is
the number of the batch it gets next, and a place below ``first`` can no longer be served. When everything was
replaced by a snapshot, there is no way from before to after: the history begins anew, and no place is left.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum

from config_sync.cache import Event
from config_sync.relay.messages import Batch, frame, pack_digest, record_of, size_of, split

MAX_BATCHES = 4_096
MAX_BYTES = 16 << 20
FRAME_BYTES = 128 << 10  # encoding one takes well below a millisecond


class Standing(Enum):
    """How a sibling's content relates to ours."""

    EQUAL = "equal"
    BEHIND = "behind"  # by batches that we have
    AHEAD = "ahead"  # it has seen what we have not
    APART = "apart"  # only a complete snapshot helps


class PastBatch:
    """Events that became visible at one instant, encoded when first asked for."""

    __slots__ = ("_frames", "_parts", "begin", "digest", "revision", "size")

    def __init__(self, events: Sequence[Event], revision: int, digest: int) -> None:
        self._parts: list[Sequence[Event] | None] = [*split(events, FRAME_BYTES)]
        self._frames: list[bytes] = []
        self.begin = events[0].mod_revision
        self.revision = revision
        self.digest = digest  # of everything, after it
        self.size = sum(map(size_of, events))

    def count(self) -> int:
        """Count the frames it takes."""
        return len(self._parts)

    def frame(self, part: int) -> bytes:
        """Return one of its frames; they are asked for in order, the first time."""
        while len(self._frames) <= part:
            at = len(self._frames)
            events = self._parts[at]
            assert events is not None  # noqa: S101 - not encoded yet
            more = at + 1 < len(self._parts)
            records = [record_of(event) for event in events]
            self._frames.append(frame(Batch(records, self.revision, pack_digest(self.digest), more)))
            self._parts[at] = None
        return self._frames[part]


class History:
    """The last batches, bounded in number and bytes."""

    def __init__(self, max_batches: int = MAX_BATCHES, max_bytes: int = MAX_BYTES) -> None:
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._batches: deque[PastBatch] = deque()
        self._bytes = 0
        self._base = (0, 0)  # revision and digest before the oldest batch
        self.first = 0  # the number of the oldest batch
        self.revision = 0  # everything up to here is in place
        self.digest = 0  # of everything, now
        self.resets = 0  # how often everything was replaced

    @property
    def next(self) -> int:
        """The number of the batch to come: the place of a follower that lacks nothing."""
        return self.first + len(self._batches)

    def append(self, events: Sequence[Event], revision: int, digest: int) -> None:
        """Note a batch that has been applied; a batch without events only moves the revision."""
        if not events:
            self.advance(revision)
            return
        batch = PastBatch(events, revision, digest)
        if batch.size > self._max_bytes:
            self.reset(revision, digest)
            return
        self._batches.append(batch)
        self._bytes += batch.size
        self.revision, self.digest = max(self.revision, revision), digest
        while len(self._batches) > self._max_batches or self._bytes > self._max_bytes:
            oldest = self._batches.popleft()
            self._bytes -= oldest.size
            self._base = oldest.revision, oldest.digest
            self.first += 1

    def advance(self, revision: int) -> None:
        """Note that nothing else has happened up to a revision."""
        self.revision = max(self.revision, revision)

    def reset(self, revision: int, digest: int) -> None:
        """Begin anew: everything has been replaced. With the same content as before, places stay what they are."""
        self.resets += 1
        if digest == self.digest and revision >= self.revision:
            self.advance(revision)
            return
        self.first = self.next + 1
        self._batches.clear()
        self._bytes = 0
        self._base = revision, digest
        self.revision, self.digest = revision, digest

    def batch(self, number: int) -> PastBatch:
        """Return a batch by its number, from ``first`` up to and without ``next``."""
        return self._batches[number - self.first]

    def compare(self, revision: int, digest: int) -> tuple[Standing, int]:
        """Tell how a sibling stands that holds ``digest`` at ``revision``, and which batch it needs next."""
        if revision > self.revision:
            return Standing.AHEAD, self.next
        if digest == self.digest:
            return Standing.EQUAL, self.next
        if revision < self._base[0]:
            return Standing.APART, self.next
        number, known = self.first, self._base
        for batch in self._batches:
            if batch.revision > revision:
                break
            number, known = number + 1, (batch.revision, batch.digest)
        if known[1] == digest or self._is_inside(number, revision):
            return Standing.BEHIND, number
        return Standing.APART, self.next

    def _is_inside(self, number: int, revision: int) -> bool:
        """Tell whether a batch began before a revision and went on behind it: then we cannot know the digest at it.

        The follower drops what it has, and the digest after the batch tells whether all was well.
        """
        return number < self.next and self.batch(number).begin <= revision
