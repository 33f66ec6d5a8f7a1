"""One stream of frames out of two paths that both carry all of it.

Owns the rule of which path counts. Frames have numbers, so none is taken twice, and none that either path brought is
left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from splvm.evidence.formats.stream import Frame

# Bytes of payload, and frames, that wait for a first path that is behind. It is then as good as silent.
MAX_WAITING_BYTES = 16 << 20
MAX_WAITING_FRAMES = 100_000


class Merger:
    """Takes the frames of both paths and gives each frame once, by rising number.

    What comes by the first path is given at once. What the second path brings waits: it is needed only where the first
    one has a gap, or is silent. On either path a number that does not rise is garbled, and left out.
    """

    __slots__ = ("_bytes", "_last", "_next", "_silent", "_waiting", "first", "second")

    def __init__(self, first: str, second: str) -> None:
        self.first = first
        self.second = second
        # The number that is given next.
        self._next = 0
        # Frames of the second path, by rising numbers, and the last number that came.
        self._waiting: deque[Frame] = deque()
        self._last = -1
        self._bytes = 0
        self._silent = False

    @property
    def is_silent(self) -> bool:
        """Whether the first path counts as silent: the second one's frames are then given at once."""
        return self._silent

    @property
    def waiting(self) -> int:
        """Frames of the second path that the first has not brought."""
        return len(self._waiting)

    def take(self, path: str, frame: Frame) -> Iterator[tuple[str, Frame]]:
        """A frame that a path brought. Gives what is now to be passed on, with the path that it came by."""
        if path == self.first:
            if frame.seq < self._next:
                return
            # It speaks, and is not behind: what it brings is the rule.
            self._silent = False
            yield from self._give_waiting(frame.seq)
            self._next = frame.seq + 1
            if self._waiting and self._waiting[0].seq == frame.seq:
                self._pop()
            yield path, frame
        elif frame.seq >= self._next and frame.seq > self._last:
            self._last = frame.seq
            self._waiting.append(frame)
            self._bytes += len(frame.text)
            if self._silent or self._bytes > MAX_WAITING_BYTES or len(self._waiting) > MAX_WAITING_FRAMES:
                yield from self._give_waiting(frame.seq + 1)

    def silence(self) -> Iterator[tuple[str, Frame]]:
        """The first path is silent. Gives all that the second one has brought since."""
        self._silent = True
        yield from self._give_waiting(self._last + 1)

    def _give_waiting(self, end: int) -> Iterator[tuple[str, Frame]]:
        """Give the waiting frames with numbers below `end`."""
        while self._waiting and self._waiting[0].seq < end:
            frame = self._pop()
            self._next = frame.seq + 1
            yield self.second, frame

    def _pop(self) -> Frame:
        frame = self._waiting.popleft()
        self._bytes -= len(frame.text)
        return frame
