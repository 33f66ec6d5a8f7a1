"""Stacks of one machine's log: whose a frame is, where a stack ends, and which moment a thread belongs to.

Owns the threads that are open. Forms of frames and of heads are in frames.py, moments in moments.py.
"""

from __future__ import annotations

import re

from splvm.evidence.waiting.waitedges import Basis, Owner
from splvm.evidence.waiting.waits import WAITERS
from splvm.paste.frames import BOTTOM, Frame, Head, loose_head
from splvm.paste.labels import MAX_CHARS
from splvm.paste.moments import MAX_LOCKS, MAX_MOMENTS, MAX_TASKS, USUAL_TIMEOUT_S, HeldLock, Moment, Thread
from splvm.paste.plain import PlainStack, heard, remark_beside
from splvm.paste.prefixes import Line
from splvm.paste.reading import Reading

# Reports of hung tasks of one machine whose threads are kept; the kernel prints ten, if nobody asks for more.
MAX_HUNG = 5000
# Lines in which two threads may be printed into each other.
NEAR = 60
# Lines from the head of a thread to its stack.
HEAD_LINES = 8
NO_END = "its end is not in the text"
# Stacks that no line of the kernel's is said of, and how kernels before 5.2 end them.
BARE = frozenset(("stack", "drgn", "crash", "sdb"))
# What puts a thread to sleep; these three of Linux before 3.16 let a device go on first, which may sleep itself.
_SLEEPERS = WAITERS - {"sync_page", "sync_page_killable", "sync_buffer"}
# What these call and may sleep in: requests are handed to devices, a mutex is taken again, a CPU is interrupted.
_BEFORE_SLEEP = re.compile(
    r"\w*(?:plug|unplug|mutex|rwsem|rt_spin|rtlock|interrupt|irq|intr|sysvec|exc_|preempt|retint|page_fault|spl_panic)"
    r"|sched_submit_work|io_schedule_prepare|down_|wq_worker|io_wq_worker"
)
_ALL_ONES = re.compile(r"0xf{8,16}\s*$")
_SOURCES = {"crash": "crash", "drgn": "drgn", "sdb": "drgn"}


class Threads:
    """The stacks of a log, as it goes on."""

    def __init__(self, into: Reading) -> None:
        self.into = into
        # The open stack of each caller.
        self.open: dict[str | None, Thread] = {}
        self.moment: Moment | None = None
        # The last moment of reports of hung tasks.
        self.hung: Moment | None = None
        # Where the list of tasks that comes is from; empty outside of one.
        self.sysrq = ""
        # Who prints it, if that is said.
        self.lister: str | None = None
        # The mutex that a debugger tells of: its address, and whether its owner comes, or who waits for it.
        self.account: tuple[str, bool] | None = None
        self.owner_of: dict[str, Thread] = {}
        # Reports of hung tasks, and for how many seconds by pid.
        self.reports = 0
        self.last_hung: dict[int, int] = {}

    @property
    def in_trace(self) -> bool:
        """Whether the next line may be another frame of what is open."""
        return any(thread.frames or thread.guesses for thread in self.open.values())

    def close(self) -> None:
        """What comes from here on is of no thread that is open."""
        self.open.clear()

    # Heads

    def take_head(self, line: Line, head: Head, *, within_report: bool) -> None:
        """Begin the stack that a line says comes."""
        thread = self.open.get(line.caller)
        if thread is not None and not thread.traced and not thread.frames:
            if thread.pid == head.pid:
                # The same one, said in another way: "INFO: task ..." and then "task:...".
                thread.comm = thread.comm or head.comm
                thread.state = head.state if head.kind == "task" else thread.state
                return
            if thread.kind == "hung" and head.kind == "hung":
                thread.ended = True
        pid = head.pid if head.pid is not None else self.next_nameless()
        thread = Thread(pid, head.comm, head.state, line.number, head.kind)
        self.begin(line, thread, head, within_report=within_report)

    def next_nameless(self) -> int:
        self.into.nameless += 1
        return -self.into.nameless

    def begin(self, line: Line, thread: Thread, head: Head, *, within_report: bool = False) -> None:
        self.open[line.caller] = thread
        self.reports += thread.kind == "hung"
        if len(self.into.threads) >= MAX_TASKS or (thread.kind == "hung" and self.reports > MAX_HUNG):
            self.into.dropped["threads"] += 1
            return
        moment = self.moment_for(line, thread, head, within_report=within_report)
        if moment is not None:
            known = moment.threads.get(thread.pid)
            if known is not None and known.stack:
                # It is in the list already, and reported besides.
                moment = None
            else:
                moment.threads[thread.pid] = thread
        if moment is not None or thread.kind == "cpu":
            self.into.threads.append((thread, moment))

    def take_account(self, address: str, *, owner: bool) -> None:
        """What comes are stacks of who has a mutex, or of who waits for it."""
        self.close()
        self.account = (address, owner)

    def note_account(self, thread: Thread, before: Line | None) -> None:
        """Note that a stack is of the account, as each of its threads has its own heading."""
        if self.account is None or self.moment is None or before is None or not before.message.startswith("PID: "):
            self.account = None
            return
        address, owner = self.account
        if owner:
            self.owner_of = {address: thread}
            self.account = None
        elif (holder := self.owner_of.get(address)) is not None and holder.pid in self.moment.threads:
            self.moment.owners[thread.pid] = Owner(holder.pid, Basis.OWNER, holder.comm)
            self.moment.locks[thread.pid] = "mutex"

    # Moments

    def moment_for(self, line: Line, thread: Thread, head: Head, *, within_report: bool) -> Moment | None:
        """The moment that a stack belongs to; None for what a CPU ran when something went wrong."""
        if thread.kind == "cpu":
            return None
        if thread.kind == "task" and self.sysrq:
            return self.moment
        if thread.kind in ("hung", "task"):
            return self.moment_of_kernel(line, thread, head.blocked_s or 0, within_report=within_report)
        source = _SOURCES.get(thread.kind, "stacks")
        if self.moment is None or self.moment.source != source or thread.pid in self.moment.threads:
            self.moment = self.begin_moment(source, line)
        return self.moment

    def moment_of_kernel(self, line: Line, thread: Thread, blocked_s: int, *, within_report: bool) -> Moment:
        hung = thread.kind == "hung"
        if hung and self.moment is not None and self.is_printed_within(line):
            self.moment.reported.add(thread.pid)
            return self.moment
        source = "hung-task" if hung or within_report or self.reports else "tasks"
        moment = self.moment
        if hung and moment is not None and moment.source == "stacks":
            # A stack without a head does not begin the list anew in which it stands.
            moment = self.hung or moment
        if moment is None or moment.source != source:
            moment = self.begin_moment(source, line)
        if hung:
            again = thread.pid in moment.reported and self.is_again(thread.pid, blocked_s, line)
            if not moment.fits(thread.pid, line.host, line.clock_s, again=again):
                moment = self.begin_moment(source, line)
            moment.reported.add(thread.pid)
            self.sysrq = ""
        if blocked_s:
            self.last_hung[thread.pid] = blocked_s
            moment.timeout_s = min(max(blocked_s, 10), USUAL_TIMEOUT_S)
        self.moment = moment
        self.hung = moment if source == "hung-task" else self.hung
        return moment

    def is_printed_within(self, line: Line) -> bool:
        """Whether a line is not of who prints the list of tasks, which goes on behind it."""
        return bool(self.sysrq) and None not in (line.caller, self.lister) and line.caller != self.lister

    def is_again(self, pid: int, blocked_s: int, line: Line) -> bool:
        """Whether the kernel complains of a thread anew, and the text does not only repeat itself."""
        return line.clock_s is not None or blocked_s != self.last_hung.get(pid, blocked_s)

    def begin_moment(self, source: str, line: Line) -> Moment:
        moment = Moment(source, line.host, line.clock_s)
        if source == "sysrq-t":
            moment.cut = NO_END
        if len(self.into.moments) >= MAX_MOMENTS:
            self.into.dropped["moments"] += 1
            del self.into.moments[MAX_MOMENTS // 2]
        self.into.moments.append(moment)
        return moment

    def begin_list(self, source: str, line: Line, cut: str = "") -> None:
        """A list of tasks comes; `source` is empty for another answer to a key of SysRq."""
        self.close()
        self.lister = line.caller
        self.sysrq, self.moment = source, self.begin_moment(source, line) if source else None
        if self.moment is not None and cut:
            self.moment.cut = cut

    def end_list(self, *, whole: bool) -> None:
        if whole and self.moment is not None and self.moment.cut == NO_END:
            self.moment.cut = ""
        self.sysrq, self.moment = "", None

    # Frames

    def take_mark(self, line: Line, *, begins: bool, ends: bool) -> None:
        """`Call Trace:`, `<TASK>` and what else stands around frames."""
        thread = self.open.get(line.caller)
        if thread is None:
            return
        if begins:
            if thread.traced and not thread.ended:
                # Somebody else's, printed in between.
                self.mix(thread)
            thread.traced = True
        thread.ended = thread.ended or ends

    def take_frames(self, line: Line, frames: tuple[Frame, ...], before: Line | None, *, in_report: bool) -> None:
        """Add frames to the stack that they are of.

        :param before: the line before, if it was none of the stack's.
        :param in_report: whether a complaint is open, of which they may be.
        """
        thread = self.open.get(line.caller)
        kind = "drgn" if line.message[:1] == "#" and " at " not in line.message else "stack"
        for frame in frames:
            first = thread is None or begins_anew(thread, frame) or is_headed(thread, before)
            if first and thread is not None and thread.kind not in BARE and thread.ended:
                self.mix(thread)
                first = not in_report
            if first and (not in_report or thread is not None):
                thread = self.begin_bare(line, kind, before)
            if thread is not None:
                # What was left out may have been the rest of this stack, and the head of the next one.
                thread.mixed = thread.mixed or thread.torn
                if sleeps_twice(thread, frame):
                    # What follows is another stack, or mixed with it.
                    self.mix(thread)
                thread.add(frame.function, guess=frame.guess)
                thread.ended = thread.ended or (frame.function in BOTTOM and not frame.guess)
            before = None
        if frames and thread is not None and thread.kind in BARE and (words := remark_beside(line.message)):
            self.hear(thread, words)
        if not frames and thread is not None and _ALL_ONES.search(line.message):
            thread.ended = True

    def tear(self, line: Line) -> None:
        """Lines are missing here."""
        thread = self.open.get(line.caller)
        if thread is not None and not thread.ended:
            thread.torn = True

    def mix(self, thread: Thread) -> None:
        """Two CPUs print into each other, and nothing says which line is whose."""
        thread.mixed = True
        before = [it for it, _ in self.into.threads[-3:] if it is not thread and 0 <= thread.line - it.line < NEAR]
        for other in before[-1:]:
            # One whose bottom came before has lost no frames.
            other.mixed = other.mixed or not (other.ended and other.stack)

    def begin_bare(self, line: Line, kind: str, before: Line | None) -> Thread:
        """A stack that no line of the kernel's is said of; perhaps the line before it says whose it is."""
        head = loose_head(before.message) if before is not None else None
        if head is None:
            head = Head("stack", None, "", "?")
        pid = head.pid if head.pid is not None else self.next_nameless()
        thread = Thread(pid, head.comm, head.state, line.number, kind)
        self.begin(line, thread, head)
        if before is not None:
            self.hear(thread, before.message)
        if self.account is not None:
            self.note_account(thread, before)
        return thread

    def hear(self, thread: Thread, words: str) -> None:
        """Keep what a person says of the locks of a stack."""
        moment = self.moment
        if moment is not None and moment.threads.get(thread.pid) is thread:
            said = heard(words[:MAX_CHARS], moment.said.get(thread.pid))
            if said.wants or said.holds:
                moment.said[thread.pid] = said

    def take_plain(self, line: Line, stack: PlainStack, comm: str, pid: int | None) -> None:
        """A stack of functions alone, which is whole."""
        pid = self.next_nameless() if pid is None else pid
        state = "D" if stack.wants else "?"
        thread = Thread(pid, comm, state, line.number, "stack", list(stack.frames), ended=True)
        self.begin(line, thread, Head("stack", pid, comm, "?"))
        self.open.pop(line.caller)
        if self.moment is not None:
            self.moment.said[pid] = stack

    def begun(self, line: Line) -> Thread | None:
        """The thread whose stack is to come in a line, if none of it came yet and its head is near."""
        thread = self.open.get(line.caller)
        near = thread is not None and 0 <= line.number - thread.line <= HEAD_LINES
        return thread if thread is not None and near and thread.kind in ("hung", "task") and not thread.stack else None

    def fill(self, thread: Thread, stack: PlainStack) -> None:
        """Give a thread its stack, which is of functions alone."""
        thread.frames, thread.ended = list(stack.frames), True
        if self.moment is not None and (stack.wants or stack.holds):
            self.moment.said[thread.pid] = stack

    # Locks

    def take_owner(self, blocked: re.Match[str]) -> None:
        """What the kernel says of the lock that a thread waits for."""
        moment = self.moment
        pid, lock = int(blocked["pid"]), blocked["lock"]
        if moment is None or pid not in moment.threads:
            moment = next((it for it in reversed(self.into.moments[-8:]) if pid in it.threads), moment)
        if moment is None:
            return
        self.moment = moment
        moment.locks[pid] = lock
        if blocked["how"] == "owned":
            moment.owners[pid] = Owner(int(blocked["opid"]), Basis.OWNER, blocked["ocomm"])
        elif blocked["how"] and len(self.into.hints) < MAX_LOCKS:
            self.into.hints.append(
                f"{blocked['comm']} (pid {pid}) waits for a semaphore that {blocked['ocomm']} (pid {blocked['opid']})"
                " took last, which proves nothing: a semaphore has no owner"
            )
        self.close()

    def take_lock(self, pid: int, lock: HeldLock) -> None:
        """A lock of lockdep's list of those that a thread holds."""
        moment = next((it for it in reversed(self.into.moments[-4:]) if it.source != "stacks"), None)
        if moment is not None:
            locks = moment.held.setdefault(pid, [])
            if len(locks) < MAX_LOCKS:
                locks.append(lock)


def begins_anew(thread: Thread, frame: Frame) -> bool:
    """Whether a frame is the first one of another stack."""
    return is_another(thread, frame) or sleeps_anew(thread, frame)


def is_another(thread: Thread, frame: Frame) -> bool:
    """Whether a frame comes after the end of a stack; several functions may be at its end."""
    if not thread.ended or frame.guess:
        return False
    return not (frame.function in BOTTOM and thread.frames and thread.frames[-1] in BOTTOM)


def sleeps_anew(thread: Thread, frame: Frame) -> bool:
    """Whether a frame is of another stack that was read by hand: a thread sleeps once, in its innermost functions."""
    if thread.kind not in BARE or frame.guess or frame.function not in WAITERS:
        return False
    return bool(thread.frames) and not WAITERS.issuperset(thread.frames)


def sleeps_twice(thread: Thread, frame: Frame) -> bool:
    """Whether a frame that puts a thread to sleep comes where it sleeps already: it does that once, and innermost."""
    if frame.guess or not thread.frames or frame.function not in _SLEEPERS:
        return False
    if frame.function == "__schedule" and frame.function in thread.frames:
        return True
    return thread.frames[-1] not in WAITERS and not _BEFORE_SLEEP.match(thread.frames[-1])


def is_headed(thread: Thread, before: Line | None) -> bool:
    """Whether the line before a frame says that it is another thread's."""
    if before is None or thread.kind not in BARE:
        return False
    head = loose_head(before.message)
    return head is not None and head.pid != thread.pid
