"""Stacks of functions alone: what a person writes into a report, what ftrace prints, what is left of a backtrace.

Owns how such lines are told from source code and lists of names, which end of a stack sleeps, and what remarks beside
the functions say of locks. Names of functions alone prove little: a stack counts only if it ends in one that waits.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splvm.evidence.waiting.iorows import PAGE_WAITS
from splvm.evidence.waiting.roles import RANGE_LOCKS, ROLES
from splvm.evidence.waiting.waitrows import IDLE, ROWS
from splvm.evidence.waiting.waits import WAITERS, WaitReason
from splvm.paste.cleaning import Cleaner
from splvm.paste.frames import BOTTOM, frames_of
from splvm.paste.labels import COUNTED, MAX_CHARS, NUMBERED, label_of
from splvm.paste.prefixes import Line, Stripper

# Lines of one stack, and the fewest.
MAX_STEPS = 64
LEAST_STEPS = 3
# The fewest locks of a thread that is shown on one line.
LEAST_LOCKS = 2
# Characters of words in angles that stand for functions.
MAX_ANGLES = 60
# Characters of a remark, and how far to the right of its function it goes on in the next line.
_MAX_REMARK = 400
_INDENTED = 12
# How functions of ZFS that wait are called in its source, where a stack of the kernel's has another one.
_IN_SOURCE = {
    "mutex_enter": "mutex_lock",
    "rw_enter": "down_read",
    "cv_wait": "__cv_wait",
    "cv_wait_io": "__cv_wait_io",
}
# Functions that take a lock, which they name.
_TAKERS = frozenset(
    ["mutex_enter", "mutex_lock", "mutex_enter_nested", "rw_enter", "rrw_enter", "rrm_enter", "down_read", "down_write"]
)
# They end in one of these, or whoever shows them says that they wait.
_SLEEPERS = WAITERS | _IN_SOURCE.keys() | _TAKERS | {name for row in ROWS for name in row.functions}
_LOCKS = {name for row in ROWS if row.reason is WaitReason.LOCK for name in row.functions}
# Those of them that call nothing but what puts a thread to sleep.
_LEAVES = WAITERS | _IN_SOURCE.keys() | _TAKERS | _LOCKS | RANGE_LOCKS | PAGE_WAITS
_FIRST = WAITERS | _IN_SOURCE.keys() | _TAKERS | _LOCKS
# Characters of a thread's name at most: a longer word is none.
_COMM_CHARS = 15
_KNOWN = _SLEEPERS | BOTTOM | {"kthread"} | {name for role in ROLES for name in role.functions}
# Where a thread's work begins: stacks of which nothing else says that they are one have it at their outer end.
_ENTRY = re.compile(
    r"(?:kthread|worker_thread|taskq_thread|thread_generic_wrapper|\w+_thread|\w*ioctl\w*|vfs_\w+|ksys_\w+|sys_\w+|SyS_\w+"
    r"|do_syscall_64|__x64_sys_\w+|do_\w+|zfs_ioc_\w+|zpl_\w+|spa_sync|kswapd|evict)"
)
_STEP = re.compile(
    r"(?P<mark>=>|->|[+|`\\]-{0,3})?\s{0,4}(?P<name>[a-z_][A-Za-z0-9_]{2,80})(?:\.[a-z]\w{1,20}(?:\.\d{1,4})?)?"
    r"(?P<call>\([^()]{0,120}\))?(?P<end>;?)(?P<address> at [0-9a-f]{8,16})?(?:\s{1,2}\[\w{1,32}\])?"
    r"\s{0,40}(?P<remark>(?:<[-=]{0,6}|[-=]{1,6}>)\s{0,4}\S.{0,120}|\([^()]{2,100}\))?$",
    re.ASCII,
)
_WANTS = re.compile(r"\b(?:wait\w*|block\w*|tries|trying|stuck|needs|wants)\b", re.IGNORECASE)
_HOLDS = re.compile(
    r"\b(?:takes?|took|taken|holds?|holding|held|acquires?|acquired|owns|grabs?|grabbed|RW_(?:READER|WRITER))\b",
    re.IGNORECASE,
)
_LETS_GO = re.compile(
    r"\b(?:releas(?:es?|ed|ing)|unlock(?:s|ed|ing)?|drop(?:s|ped|ping)?|gives? (?:up|back))\b", re.IGNORECASE
)
_READS = "RW_READER"
# What a sentence says of locks, verb by verb: who tries to take one does not have it.
_VERBS = re.compile(
    rf"(?P<wants>{_WANTS.pattern}(?:\s{{1,2}}\w{{1,8}}){{0,2}}?\s{{1,2}}(?:acquire|take|get|grab|obtain|lock|enter)\b"
    rf"|{_WANTS.pattern})|(?P<lets_go>{_LETS_GO.pattern})|{_HOLDS.pattern}|\bhas\b",
    re.IGNORECASE,
)
# A step in words, below the function that takes it.
_ACT = re.compile(
    r"(?P<verb>(?:waits?|waiting|blocks?|blocked|tries|trying|acquires?|acquired|takes?|holds?|grabs?|locks?)"
    r"(?: (?:for|on|to|at|acquire|take|get|lock)){0,2}) (?:the |an? )?(?P<lock>[\w>.()*&\[\]-]{3,60})$",
    re.IGNORECASE | re.ASCII,
)
# Functions of which each calls the next, on one line.
_CALLS = re.compile(
    r"(?:(?:->|=>)\s?)?(?P<names>[a-z_]\w{2,60}(?:\(\))?(?:\s?(?:->|=>)\s?[a-z_]\w{2,60}(?:\(\))?){1,12})"
    r"(?:\s?(?:->|=>)\s?\.{2,3})?\s{0,8}(?P<remark>\([^()]{2,100}\)|<[-=]{1,6}\s\S.{0,120})?$",
    re.ASCII,
)
# A thread on one line: `1. arc_release() -> hash_lock -> l2arc_buflist_mtx`.
_PLACES = re.compile(r"\s{1,4}[-=]{1,2}>\s{1,4}")
_NUMBER = re.compile(r"(?:[-*]\s{1,4})?(?P<name>[\w ]{1,12})[.):]\s{1,4}")
_ONE_CALL = re.compile(r"([a-z_]\w{2,60})\(\)", re.ASCII)
_ONE_LOCK = re.compile(r"&?(?:\w{1,40}->)*\w{0,40}(?:lock|mtx|mutex|_sem)\w{0,20}(?:\[\w{0,8}\])?", re.ASCII)
_ARROW = re.compile(r"\s?(?:->|=>)\s?")
_MARKED = ("->", "=>")
# What a person wrote beside a frame that has an offset.
_BESIDE = re.compile(r"(?:<[-=]{1,6}\s(?P<arrow>.{1,120})|\((?P<words>[^()]{0,40}\s[^()]{1,80})\))$")
_TAKEN = re.compile(rf"\b(?:{'|'.join(sorted(_TAKERS))})\((?P<lock>[^(),]{{1,60}})")
_LOCK = re.compile(r"(?:\w{1,40}(?:->|\.))*(\w{0,40}(?:lock|mtx|mutex|umount|_sem)\w{0,20})(?![\w(])", re.ASCII)
# Source code, and no stack: who unlocks does not wait.
_UNLOCKS = re.compile(
    r"(?:mutex|rw|rrw|rrm|spin|spa_config|rcu)_(?:exit|unlock|try\w+)\w*|up_(?:read|write)|\w*tryenter"
)
_SIDES = re.compile(r"(?<=\S)\s{2,}(?=[\w*#=-])")
# How a function may be called that sleeps and that nobody knows.
_SEEMS_ASLEEP = re.compile(r"\w*(?:_wait|_lock|wait_)\w*")
# A function that nobody knows and that has no underscore: one only between others.
_WORD = re.compile(r"[a-z][a-z0-9]{3,20}(?:\(\))?(?: \[\w{1,32}\])?$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Step:
    """A line that names a function."""

    # Blanks before it.
    column: int
    name: str
    # What stands in its parentheses; None if it has none.
    given: str | None
    # Whether a semicolon ends it, as in source code.
    ended: bool
    # Whether it has an address or a mark of a tool's before it.
    marked: bool
    remark: str
    # Functions that were called on the way to it and stand on the same line, the outermost first.
    through: tuple[str, ...] = ()
    # Whether words say what becomes of a lock: of such a sketch the functions stand one below the other.
    told: bool = False
    # Whether it is a function only if others stand around it.
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class PlainStack:
    """A stack, what sleeps first, and what is said of its locks."""

    frames: tuple[str, ...]
    # Names of locks that its thread has.
    holds: frozenset[str]
    # What its thread waits for, in the words of who wrote it, and the lock's name in them.
    wants: str
    lock: str


def column_of(line: str, message: str) -> int:
    """How far the message of a line is indented, whatever stands before the blanks."""
    first = next(iter(message.split(None, 1)), "")
    before = line[: max(0, line.find(first))]
    return len(before[len(before.rstrip()) :].expandtabs())


def is_bare(message: str) -> bool:
    """Whether a line may be a step: most lines of logs have one of these, and no step has."""
    return "+0x" not in message and ": " not in message and len(message) <= MAX_CHARS


def steps_of(message: str, column: int) -> tuple[Step, ...]:
    """A line as a step of a stack, or of two that stand side by side; empty if it is none."""
    if (step := step_of(message, column) or calls_of(message, column)) is not None:
        return (step,)
    if "  " not in message or len(sides := _SIDES.split(message)) != 2:
        return ()
    left, right = step_of(sides[0], column), step_of(sides[1], column + message.rfind(sides[1]))
    return (left, right) if left is not None and right is not None else ()


def step_of(message: str, column: int) -> Step | None:
    """A line as a step of a stack; None if it is none."""
    match = _STEP.match(message) if is_bare(message) else None
    if match is None or frames_of(message) is not None:
        return None
    remark = match["remark"] or ""
    name = match["name"]
    if "_" not in name and name not in _KNOWN and not (match["call"] or match["mark"] == "=>" or match["address"]):
        return None
    call = match["call"]
    if call and (_WANTS.search(call) or _HOLDS.search(call)):
        call, remark = None, f"{call} {remark}"
    marked = match["mark"] == "=>" or match["address"] is not None
    return Step(column, name, call and call[1:-1], match["end"] == ";", marked, remark)


def calls_of(message: str, column: int) -> Step | None:
    """A line as functions that call each other; None if it is none: what is behind arrows may be fields as well."""
    match = _CALLS.match(message) if "->" in message or "=>" in message else None
    if match is None or not is_bare(message):
        return None
    names = [name.removesuffix("()") for name in _ARROW.split(match["names"])]
    functions = sum("_" in name or name in _KNOWN for name in names)
    if functions < len(names) - 1 or (len(names) < LEAST_STEPS and not message.startswith(_MARKED)):
        return None
    return Step(column, names[-1], None, False, False, match["remark"] or "", tuple(names[:-1]))


def path_of(message: str) -> tuple[PlainStack, str] | None:
    """A line that is a whole thread, and its name: functions, and locks in the order in which it takes them."""
    if "() -> " not in message and "() => " not in message:
        return None
    name = _NUMBER.match(message)
    places = _PLACES.split(message[name.end() if name else 0 :][:MAX_CHARS].rstrip(" ."))
    calls = [match[1] for match in map(_ONE_CALL.fullmatch, places) if match]
    locks = [it.strip("&").rpartition("->")[2].partition("[")[0] for it in places if _ONE_LOCK.fullmatch(it)]
    if not calls or len(locks) < LEAST_LOCKS or not _ONE_LOCK.fullmatch(places[-1]):
        return None
    *held, wanted = locks
    stack = PlainStack(("mutex_lock", *reversed(calls)), frozenset(held), f"waits for {wanted}", wanted)
    return stack, f"path {name['name'].strip()}" if name else ""


def is_half_path(message: str) -> bool:
    """Whether a line is such a thread, and goes on in the next one."""
    return message.endswith((" ->", " =>")) and ("() -> " in message or "() => " in message)


def act_of(message: str, column: int) -> Step | None:
    """A line that says in words what becomes of a lock, as the step that does it; None if it is none."""
    match = _ACT.match(message) if is_bare(message) else None
    if match is None or not _LOCK.search(match["lock"]):
        return None
    if _WANTS.search(match["verb"]):
        return Step(column, "mutex_enter", None, False, False, message, told=True)
    return Step(column, "mutex_enter", match["lock"], False, False, "", told=True)


def word_of(message: str, column: int) -> Step | None:
    """A line as a function that nobody knows, where one may stand; None if it is none."""
    if not _WORD.match(message):
        return None
    return Step(column, message.partition(" ")[0].removesuffix("()"), None, False, False, "", doubtful=True)


class Steps:
    """The lines of one stack, or of two side by side, as they come."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        # Of the stack to the right of it.
        self.right: list[Step] = []
        # Each without what stands before it and as it is, and what stands above the first one.
        self.lines: list[tuple[Line, str]] = []
        self.label = ""

    def begins_another(self, step: Step) -> bool:
        """Whether a step is of another stack: a thread sleeps once, and who is called first stands furthest out."""
        steps = self.steps
        if len(steps) >= MAX_STEPS:
            return True
        if len(steps) < LEAST_STEPS:
            return False
        if len({it.column for it in steps}) > 1:
            return step.column < steps[0].column + (not any(it.told for it in steps))
        sleeps = step.name in _FIRST or bool(_WANTS.search(step.remark))
        return steps[0].name in _SLEEPERS and steps[-1].name not in _FIRST and sleeps

    def goes_on(self, message: str, column: int) -> bool:
        """Whether a line goes on with the remark of the last step, or stands for functions that are left out."""
        if not self.steps or not message:
            return False
        if is_left_out(message):
            return True
        last = self.steps[-1]
        if not last.remark or column < last.column + _INDENTED:
            return False
        self.steps[-1] = replace(last, remark=f"{last.remark} {message}"[:_MAX_REMARK])
        return True

    def add(self, steps: Sequence[Step], line: Line, words: str, label: str) -> None:
        """Add a line, given as one step or two, without what stands before it, and as it is."""
        if not self.steps:
            self.lines, self.label = [], label
        self.lines.append((line, words))
        if self.is_right(steps):
            self.right.append(steps[0])
        else:
            self.steps.append(steps[0])
            self.right += steps[1:]

    def is_right(self, steps: Sequence[Step]) -> bool:
        """Whether a line is of the stack to the right alone."""
        return len(steps) == 1 and bool(self.right) and steps[0].column == self.right[0].column

    def take_names(self, after: Line, *, apart: bool) -> list[tuple[Line, str]]:
        """Take away the last lines, if they are functions that belong to the frames with offsets after them.

        A name before them that may be a thread's is none; it is left to whoever looks what stands above a stack.

        :param apart: whether a blank line stands between them, so that a whole stack is one by itself.
        """
        if self.right or not frames_of(after.message) or (apart and len(self.steps) >= LEAST_STEPS):
            return []
        begin = len(self.steps)
        while begin and is_name(self.steps[begin - 1]):
            begin -= 1
        names = [step.name for step in self.steps[begin:]]
        begin += next((at for at, name in enumerate(names) if is_function(name)), len(names))
        taken = [(line, step.name) for (line, _), step in zip(self.lines[begin:], self.steps[begin:], strict=True)]
        self.steps, self.lines = self.steps[:begin], self.lines[:begin]
        return taken

    def finish(self, *, headed: bool = False) -> list[tuple[PlainStack, str]]:
        """The stacks that the lines are, each with what stands above it; others may come.

        :param headed: whether a line of the kernel's above them says whose stack comes.
        """
        while self.steps and self.steps[-1].doubtful:
            self.steps.pop()
        found, labels = [], _SIDES.split(self.label.strip()) if self.right else [self.label]
        for at, steps in enumerate((self.steps, self.right)):
            label = labels[at] if at < len(labels) else ""
            other = self.steps if at else self.right
            # Beside a stack stands another one.
            sure = headed or (bool(other) and stack_of(other, label) is not None)
            if (stack := stack_of(steps, label_of(label)[0], sure=sure)) is not None:
                found.append((stack, label))
        self.steps, self.right = [], []
        return found

    @property
    def seems_one(self) -> bool:
        """Whether a reader would take the lines for a stack, and not for source code or a list of names."""
        names = {step.name for step in self.steps}
        return (
            len(self.steps) >= LEAST_STEPS
            and all(map(is_name, self.steps))
            and not any(map(_UNLOCKS.fullmatch, names))
            and (bool(NUMBERED.match(label_of(self.label)[0])) or not _SLEEPERS.isdisjoint(names))
        )


def is_left_out(message: str) -> bool:
    """Whether a line stands for functions: dots, or words as `<reclaim>`; the kernel's own marks are capitals."""
    return not message.strip(" .") or (
        message[0] == "<" and message[-1] == ">" and len(message) < MAX_ANGLES and not message.isupper()
    )


def is_name(step: Step) -> bool:
    """Whether a line is the name of a function, and nothing besides."""
    return step.given is None and not step.ended and not step.remark


def is_function(name: str) -> bool:
    """Whether a name above frames is a function's, and not the thread's."""
    return (name in _SLEEPERS and name not in IDLE) or len(name) > _COMM_CHARS


def stack_of(steps: Sequence[Step], label: str, *, sure: bool = False) -> PlainStack | None:
    """The stack that the lines are; None if they are none.

    :param label: what stands above them.
    :param sure: something else says that they are one.
    """
    if len(steps) < LEAST_STEPS or any(_UNLOCKS.fullmatch(step.name) for step in steps):
        return None
    path = _path(steps)
    remarks = any(step.remark for step in steps)
    if not path or (any(step.ended for step in steps) and not (remarks and path != list(steps))):
        return None
    # Who has taken a lock is not in the function any more that took it.
    inner = path[0]
    path = [it for it in path if it is inner or it.name not in _TAKERS or not _HOLDS.search(it.remark)]
    frames = [name for step in path for name in (step.name, *reversed(step.through))]
    # What is called last may be a function that nobody knows.
    asleep = any(step.name in _SLEEPERS or _SEEMS_ASLEEP.fullmatch(step.name) for step in path)
    counted = bool(COUNTED.fullmatch(label)) and (remarks or (asleep and all(map(is_name, path))))
    titled = sure or (bool(NUMBERED.match(label)) and any(step.name in _SLEEPERS for step in path))
    waits = inner.name in _SLEEPERS or bool(inner.remark) or (titled and all(map(is_name, path))) or counted
    begins = frames[-1] in BOTTOM or _ENTRY.fullmatch(frames[-1])
    if not waits or not (remarks or label or sure or any(it.marked for it in steps) or begins):
        return None
    said = next((step for step in path if _WANTS.search(step.remark)), inner)
    wants, lock = said.remark, next(iter(_locks_in(said)), "")
    if (
        inner.name not in _SLEEPERS
        and inner.remark
        and not (_WANTS.search(wants) or _HOLDS.search(wants) or _TAKEN.search(wants))
    ):
        return None
    if inner.name not in _SLEEPERS and lock:
        # What it calls to get the lock is not shown.
        frames.insert(0, "mutex_lock")
    taken = [step for step in _not_let_go(steps) if step is not inner and _is_taken(step)]
    # Who reads twice waits for nobody.
    holds = {lock for step in taken if not (_READS in step.remark and _READS in wants) for lock in _locks_in(step)}
    return PlainStack(tuple(_IN_SOURCE.get(name, name) for name in frames), frozenset(holds), wants, lock)


def _path(steps: Sequence[Step]) -> list[Step]:
    """The steps that are on the stack, what sleeps first; the others have returned."""
    flat = len({step.column for step in steps}) == 1
    first, last = (step.name in _FIRST or bool(_WANTS.search(step.remark)) for step in (steps[0], steps[-1]))
    if flat or (first and not last and not steps[-1].remark):
        outward = _is_outward(steps) if flat else True
        return list(steps) if outward else list(reversed(steps))
    # Who is called stands further to the right.
    path: list[Step] = []
    for step in steps:
        while path and path[-1].column >= step.column:
            path.pop()
        path.append(step)
    return list(reversed(path)) if len(path) > 1 else []


def _not_let_go(steps: Sequence[Step]) -> list[Step]:
    """The steps that no remark says to have given back what they took: all of them, if it names no lock of theirs."""
    gone: set[str] = set()
    for step in steps:
        if _LETS_GO.search(step.remark):
            locks = set(_locks_in(step))
            taken = {lock for other in steps if _is_taken(other) for lock in _locks_in(other)}
            gone |= locks if locks and locks <= taken else taken
    return [step for step in steps if gone.isdisjoint(_locks_in(step))]


def _is_outward(steps: Sequence[Step]) -> bool:
    """Whether of steps one below the other the innermost comes first: it sleeps, or what sleeps is next to it."""
    if steps[-1].name in BOTTOM:
        return True
    sleepers = _LEAVES if any(step.name in _LEAVES for step in steps) else _SLEEPERS
    asleep = [at for at, step in enumerate(steps) if step.name in sleepers or _WANTS.search(step.remark)]
    if not asleep:
        asleep = [at for at, step in enumerate(steps) if _SEEMS_ASLEEP.fullmatch(step.name)]
    return not asleep or asleep[0] <= len(steps) - 1 - asleep[-1]


def _is_taken(step: Step) -> bool:
    """Whether the thread has the lock that a step of it names."""
    if step.remark:
        return bool(_HOLDS.search(step.remark) or _TAKEN.search(step.remark)) and not _WANTS.search(step.remark)
    return step.name in _TAKERS and bool(step.given)


def _locks_in(step: Step) -> list[str]:
    """The names of the locks that a step is about, without what they are part of."""
    words = step.remark or (step.given or "" if step.name in _TAKERS else "")
    return [it for it in _LOCK.findall(words) if "_" in it and it not in _TAKERS]


def remark_beside(message: str) -> str:
    """What a person wrote beside a frame that has an offset; empty if nothing."""
    if message[-1:] != ")" and " <-" not in message and " <=" not in message:
        return ""
    match = _BESIDE.search(message)
    words = (match["arrow"] or match["words"]) if match else ""
    return words if _VERBS.search(words) else ""


def heard(words: str, before: PlainStack | None = None) -> PlainStack:
    """What words say of locks: whose a thread has, and which it waits for.

    :param before: what is known of the thread already.
    """
    stack = before or PlainStack((), frozenset(), "", "")
    verbs = list(_VERBS.finditer(words))
    for verb, after in itertools.zip_longest(verbs, verbs[1:]):
        said = words[verb.start() : after.start() if after else None]
        locks = [it for it in _LOCK.findall(said) if "_" in it and it not in _TAKERS]
        if verb["lets_go"]:
            stack = replace(stack, holds=stack.holds - set(locks) if stack.holds & set(locks) else frozenset())
        elif verb["wants"] and not stack.wants:
            stack = replace(stack, wants=said, lock=next(iter(locks), ""))
        elif not verb["wants"]:
            stack = replace(stack, holds=stack.holds | set(locks))
    return stack


def steps_before(lines: Sequence[str], at: int) -> int:
    """How many lines before the one at `at` are steps, if that one is a step too."""
    if not is_bare(lines[at]):
        # Above frames with offsets may stand some without.
        begin = before = at
        while "+" in lines[at] and before and at - before < 2 * LEAST_STEPS and _may_be_step(lines[before - 1]):
            before -= 1
            begin = before if lines[before].strip() else begin
        return at - begin
    begin = at
    while begin >= 0 and at - begin <= MAX_STEPS and (not lines[begin].strip() or _may_be_step(lines[begin])):
        begin -= 1
    return max(0, at - begin - 1)


def _may_be_step(line: str) -> bool:
    # Of rich text every line ends so, and has its tabs in words.
    words = line.removesuffix("\\par").replace("\\tab ", "\t")
    text = Stripper().strip("".join(Cleaner().clean(words)[-1:])).message
    return is_left_out(text) or bool(steps_of(text, 0)) or frames_of(text) is not None or act_of(text, 0) is not None
