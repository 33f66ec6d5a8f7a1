"""Lock-step with the agent of a guest in virtual time: it rings, the host looks, decides and answers.

Owns the order of answers. All happens in the caller's thread, and each answer depends on the guest's frames alone: not
on when they came, and not on how long the host took.
"""

from __future__ import annotations

import threading

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestCommandError
from splvm.evidence.formats.stream import Frame, FrameReader
from splvm.guest.agent import Sink, find_reply
from splvm.guest.bell import Bell

# Name of this path to the agent, as the record has it.
BELL = "bell"

# Guest time in which a command is answered, ns.
_ANSWER_NS = 20_000_000_000

# What an error says of each kind of command.
_REFUSED = {"probe": "the probe refused", "sysrq": "the kernel refused SysRq", "run": "the guest cannot run"}


class LockStep:
    """The agent of a guest that is held at each bell.

    :param sink: called with each frame in order, in the caller's thread.
    :param deadline: of all that is done.
    """

    def __init__(self, bell: Bell, sink: Sink, deadline: Deadline) -> None:
        self._bell = bell
        self._sink = sink
        self._deadline = deadline
        self._reader = FrameReader()
        self._is_held = False
        self._now_ns = 0
        self._commands = 0
        self._replies: list[Frame] = []
        self._complete = False

    def command(self, command: str, deadline: Deadline) -> int:
        """Have the agent write `command` to the probe.

        :param deadline: not used: how long the host takes must not matter.
        :returns: when it was done, guest time in ns.
        :raises GuestCommandError: when the probe refuses.
        :raises GuestLostError: when the guest does not ring any more.
        :raises DeadlineExceeded: when no answer comes in 20 s of the guest.
        """
        return self._ask(f"probe {command}")

    def list_tasks(self, keys: str) -> None:
        """Have the kernel say on the console what SysRq says for each of these keys.

        :raises GuestCommandError: when it cannot be asked.
        """
        for key in keys:
            self._ask(f"sysrq {key}")

    def run(self, command: str, within_s: float) -> None:
        """Have a shell of the guest's run a command. What it says is on the console.

        :param within_s: seconds of the guest in which it has to end.
        :raises GuestCommandError: when it fails.
        :raises DeadlineExceeded: when it does not end.
        """
        self._ask(f"run {command}", int(within_s * 1e9))

    def _ask(self, words: str, within_ns: int = _ANSWER_NS) -> int:
        self._commands += 1
        number = f"#{self._commands}"
        kind, _, command = words.partition(" ")
        self._hear_first()
        self._replies.clear()
        asked_ns = self._now_ns
        self._go_on(f"{number} {words}\n")
        while (reply := find_reply(self._replies, f"{number} {command}")) is None:
            if self._now_ns - asked_ns > within_ns:
                raise DeadlineExceeded(words, within_ns / 1e9)
            self._go_on()
        if reply.what != "data":
            raise GuestCommandError(f"{_REFUSED[kind]} {command!r}: {reply.text.strip()}")
        return reply.end_ns

    def gone(self) -> str | None:
        """Why nothing will come any more: nothing that is known before the next bell."""
        return None

    def wait_for_news(self, changed: threading.Condition) -> None:
        """Let the guest go on to its next bell."""
        self._go_on()

    def quit(self, deadline: Deadline) -> bool:
        """Ask for the end of the stream. True when it came whole; the guest is then held at its last bell."""
        self._hear_first()
        asked_ns = self._now_ns
        self._go_on("quit\n")
        while not self._complete and self._now_ns - asked_ns < _ANSWER_NS:
            self._go_on()
        return self._complete

    def let_in(self, words: str) -> None:
        """Have the guest open its network. What it does from then on depends on the host.

        :param words: of /bin/splvm-open, see images/guest/open.
        """
        self._bell.answer(f"open {words}", self._deadline)
        self._is_held = False

    def _hear_first(self) -> None:
        """An answer is heard at a bell alone, so the first bell comes first."""
        if not self._is_held:
            self._go_on()

    def _go_on(self, answer: str = "") -> None:
        """Answer the bell that holds the guest, if one does, and take what it brings to its next one."""
        if self._is_held:
            self._is_held = False
            self._bell.answer(answer, self._deadline)
        data = self._bell.wait(self._deadline)
        self._is_held = True
        for frame in self._reader.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        self._now_ns = max(self._now_ns, frame.end_ns)
        self._sink(frame, BELL)
        if frame.source == "ctl":
            self._replies.append(frame)
        elif frame.source == "agent" and frame.text.startswith("end "):
            self._complete = True
