"""One line of a stack, and the lines that say whose stack it is: kernels of several ages and machines, crash, drgn.

Owns the forms; which thread a frame belongs to is for reader.py. Sources: arch/{x86,arm64,powerpc,s390}/kernel/
{dumpstack,traps,process,stacktrace}.c, sched_show_task() of kernel/sched/core.c, kernel/hung_task.c,
scripts/decode_stacktrace.sh, crash(8), drgn's StackTrace.__str__(), and the `stacks` command of sdb.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

# Behind a name may be the marks of compilers: copies, and jump tables of kernels with CFI.
_NAME = r"\.?(?P<function>[A-Za-z_$][\w$]{0,255})(?:\.[\w.$]{1,255})?(?:\[jt\])?"
# Of the last line of a text the number may be cut off.
_OFFSET = r"\+(?:0x[0-9a-f]{0,16}|\d{1,7}(?![\w.]))(?:/(?:0x?)?[0-9a-f]{0,16})?"
# Module with its build id, source position, what powerpc and s390 add, and a remark behind an arrow.
_AFTER = (
    r"(?:\s{0,40}(?:\[[^\]]{0,160}\]?|\([^)]{0,200}\)?|</?[A-Z#]{2,12}>|[\w./-]{1,120}:\d{1,7}|-))*\s*"
    r"(?:<[-=]{1,6}\s.{0,120})?$"
)
_ADDRESS = r"(?:\(?\[<?[0-9a-fx.]{1,18}>?\]\s{0,2}(?:\(|from\s)?|[0-9a-f]{16}:?\s{1,4}|=>\s)"
_FRAME = re.compile(
    rf"(?:<[#/A-Z]{{2,8}}>\s{{0,8}})?{_ADDRESS}{{0,2}}(?P<guess>\?\s)?{_NAME}{_OFFSET}\)?{_AFTER}", re.ASCII
)
# crash: ` #1 [ffffc90000] schedule at ffffffff81512345 [zfs]`; git takes lines with the sign for comments
_CRASH = re.compile(
    rf"#?\d{{1,3}}\s{{0,2}}\[[0-9a-f]{{1,18}}\] {_NAME}(?:\+\w{{1,18}})? at(?: [0-9a-f]{{1,18}}|$)", re.ASCII
)
# drgn: `#3  zio_wait (./module/zfs/zio.c:123:4)`, `#3  at 0xf (zio_wait+0x1/0x2) in zio_wait at zio.c:123`
_DRGN = re.compile(
    rf"#\d{{1,3}}\s{{1,4}}(?:at 0x[0-9a-f]{{1,16}} \([^)]{{1,160}}\) in |0x[0-9a-f]{{1,16}} in )?{_NAME}"
    rf"(?:{_OFFSET})?\s{{0,2}}(?:\(|at |$|in )",
    re.ASCII,
)
# decode_stacktrace.sh without offsets: `zio_wait (module/zfs/zio.c:123 (discriminator 2)) zfs`
_DECODED = re.compile(rf"(?P<guess>\?\s)?{_NAME} \([\w./-]{{1,160}}\.[chS]:\d{{1,7}}[^)]{{0,60}}\)", re.ASCII)
_INLINE = re.compile(r"[A-Za-z_]\w{0,200} (?:\(?[\w./-]{1,160}:\d{1,7}\)?) ?\[inline\]", re.ASCII)
_SEVERAL = re.compile(rf"(?P<guess>\?\s)?(?<![\w.]){_NAME}\+0x[0-9a-f]{{1,16}}/0x[0-9a-f]{{1,16}}", re.ASCII)
# The program counter of who was interrupted: x86, arm64, powerpc, s390.
_PC = re.compile(
    rf"(?:RIP: (?:0010:|[0-9a-f]{{4}}:)?(?:\[<[0-9a-f]{{0,16}}>\]\s{{0,2}}){{0,2}}(?:\[<[0-9a-f]{{0,16}}>\]\s)?"
    rf"|pc : (?:\[<[0-9a-f]{{0,16}}>\] )?|NIP \[[0-9a-f]{{1,16}}\] |Krnl PSW : [0-9a-f ]{{10,40}} \()"
    rf"{_NAME}\+0x[0-9a-f]{{1,16}}",
    re.ASCII,
)
TRACE = re.compile(r"(?:[\w ]{0,24}: ?)?(?:Call [Tt]race|Stack [Tt]race|Backtrace|kernel stack):?", re.ASCII)
MARK = re.compile(r"(?:</?[#A-Z0-9]{2,12}>)\s{0,8}$", re.ASCII)
# Where every stack of a thread ends.
BOTTOM = frozenset(
    [
        "ret_from_fork",
        "ret_from_fork_asm",
        "ret_from_kernel_thread",
        "ret_from_kernel_user_thread",
        "kernel_thread_helper",
        "child_rip",
        "kernel_thread_starter",
        "system_call_fastpath",
        "system_call_exception",
        "system_call_common",
        "system_call_vectored_common",
        "entry_SYSCALL_64",
        "entry_SYSCALL_64_after_hwframe",
        "entry_SYSCALL_64_fastpath",
        "tracesys",
        "el0t_64_sync",
        "el0_svc_naked",
        "__ret_from_fork",
        "start_secondary",
        "secondary_startup_64",
        "secondary_startup_64_no_verify",
        "common_startup_64",
        "rest_init",
        "start_kernel",
        "x86_64_start_reservations",
        "x86_64_start_kernel",
        "system_call",
        "sysenter_dispatch",
        "cstar_dispatch",
    ]
)

# lib/dump_stack.c: where a stack begins that a kernel prints of itself.
DUMPERS = frozenset(("dump_stack", "dump_stack_lvl", "__dump_stack", "show_stack"))


@dataclass(frozen=True, slots=True)
class Frame:
    """A function on a stack."""

    function: str
    # Marked with `?`: found on the stack, but perhaps left over.
    guess: bool = False


@functools.lru_cache(maxsize=4096)
def frames_of(message: str) -> tuple[Frame, ...] | None:
    """The frames that a line consists of; empty for one that belongs to a stack and names none; None for another."""
    if message[:1] == "#":
        if match := _CRASH.match(message) or _DRGN.match(message):
            return (Frame(_name(match)),)
        return None
    if "+" in message:
        if message.count("+0x") > 1 and (several := _SEVERAL.findall(message)) and len(several) > 1:
            rest = _SEVERAL.sub("", message)
            if not re.search(r"[a-z]{3,}", re.sub(r"\[[^\]]{0,160}\]|<[^>]{0,20}>|Call [Tt]race", "", rest)):
                return tuple(Frame(name, bool(guess)) for guess, name in several)
        if match := _FRAME.match(message):
            return (Frame(_name(match), match["guess"] is not None),)
    if ".c:" in message or ".h:" in message or ".S:" in message:
        if _INLINE.match(message):
            return ()
        if match := _DECODED.match(message):
            return (Frame(_name(match), match["guess"] is not None),)
    if " at ffff" in message and message[:1].isdecimal() and (match := _CRASH.match(message)):
        return (Frame(_name(match)),)
    if message[:1] == "[" and _ADDRESS_ONLY.match(message):
        return ()
    return None


# Copies that a tracer of Oracle's kernels makes.
_COPY = re.compile(r"__dta_(\w+?)_\d{1,6}")


def _name(match: re.Match[str]) -> str:
    """The function that a frame names."""
    name = match["function"]
    copy = _COPY.fullmatch(name) if name.startswith("__dta_") else None
    return copy[1] if copy else name


_ADDRESS_ONLY = re.compile(
    r"(?:\[<[0-9a-fx]{1,18}>\]|(?:\[[0-9a-f]{8,16}\] ){2}0x)\s{0,2}(?:(?:0x)?[0-9a-f]{1,16}(?:/0x[0-9a-f]{1,16})?)?"
    r"(?: \(unreliable\))?\s*$",
    re.ASCII,
)


def program_counter(message: str) -> str:
    """The function that a line of registers names; empty if it is none."""
    match = _PC.match(message) if message[:1] in ("R", "p", "N", "K") else None
    return match["function"] if match else ""


@dataclass(frozen=True, slots=True)
class Head:
    """Whose stack follows."""

    # `hung`, `task`, `cpu`, `crash`, `stack` or `sdb`.
    kind: str
    pid: int | None
    comm: str
    # The kernel's letter, `?` if nothing is said of it.
    state: str
    # Seconds that the thread has been blocked for, if it is said.
    blocked_s: int | None = None


_HUNG = re.compile(
    r"INFO: task (?P<comm>.{1,60}?):(?P<pid>\d{1,10})(?: <\w{1,10}>)? (?:is )?blocked (?:in I/O wait )?for more than\s?"
    r"(?P<seconds>\d{1,9})?",
    re.ASCII,
)
# What shows a log as a page may lose the letter.
_TASK = re.compile(r"task:(?P<comm>.{1,64}?)\s{1,20}state(?::(?P<state>[A-Za-z?])|(?=\s{1,20}stack: ?\d))", re.ASCII)
_TASK_PID = re.compile(r"\bpid: {0,12}(\d{1,10})\b", re.ASCII)
_OLD_TASK = re.compile(
    r"(?P<comm>\S.{0,30}?)\s{1,16}(?P<state>[RSDTtZXIPKW?])(?:\s{1,8}running task|\s{1,8}[0-9a-f]{8,16})?"
    r"\s{1,12}\d{1,6}\s{1,12}(?P<pid>\d{1,10})\s{1,12}\d{1,10}(?:\s{1,12}\d{1,10})?(?:\s{1,4}\(\w{1,12}\))?"
    r"(?:\s{1,4}0x[0-9a-f]{8,16})?\s*$",
    re.ASCII,
)
_STATE = re.compile(r"\s[TtZXIPKW?D]\s")
_CPU = re.compile(
    r"CPU: {1,3}\d{1,6} (?:UID: \d{1,10} )?PID: (?P<pid>\d{1,10}) Comm: (?P<comm>.{1,64}?)\s{0,2}"
    r"(?:Kdump: |Not tainted|Tainted: |$)",
    re.ASCII,
)
_OLD_CPU = re.compile(
    r"Pid: (?P<pid>\d{1,10}), comm: (?P<comm>.{1,64}?)(?:\s(?:Not tainted|Tainted)|$)"
    r"|Process (?P<comm2>.{1,64}?) \(pid: (?P<pid2>\d{1,10}),",
    re.ASCII,
)
_CRASH_HEAD = re.compile(
    r"PID: (?P<pid>\d{1,10})\s{1,8}TASK: [0-9a-f]{1,18}\s{1,8}CPU: \d{1,6}\s{1,8}COMMAND: \"(?P<comm>[^\"]{0,64})",
    re.ASCII,
)
_STACK_FILE = re.compile(r".{0,120}?/proc/(?:\d{1,10}/task/)?(?P<pid>\d{1,10})/stack\b", re.ASCII)
_COLLECTED = re.compile(r"splvm: stack (?P<pid>\d{1,10}) (?P<state>[A-Za-z?]) (?P<comm>.{1,64})", re.ASCII)
_SDB = re.compile(
    r"0x[0-9a-f]{16}\s{1,8}(?P<state>UNINTERRUPTIBLE|INTERRUPTIBLE|RUNNING|IDLE)\s{1,12}\d{1,7}$", re.ASCII
)
_SDB_STATES = {"UNINTERRUPTIBLE": "D", "INTERRUPTIBLE": "S", "RUNNING": "R", "IDLE": "I"}


@functools.lru_cache(maxsize=2048)
def head_of(message: str) -> Head | None:
    """Whose stack a line begins."""
    first = message[:1]
    if first == "I" and (match := _HUNG.match(message)):
        seconds = int(match["seconds"]) if match["seconds"] else None
        return Head("hung", int(match["pid"]), match["comm"], "D", seconds)
    if first == "t" and (match := _TASK.match(message)):
        pid = _TASK_PID.search(message, match.end())
        return Head("task", int(pid[1]) if pid else None, match["comm"].strip(), match["state"] or "?")
    if first == "C" and (match := _CPU.match(message)):
        return Head("cpu", int(match["pid"]), match["comm"].strip(), "R")
    if first == "P":
        if match := _CRASH_HEAD.match(message):
            return Head("crash", int(match["pid"]), match["comm"].strip(), "?")
        if match := _OLD_CPU.match(message):
            return Head("cpu", int(match["pid"] or match["pid2"]), (match["comm"] or match["comm2"]).strip(), "R")
    if first == "s" and (match := _COLLECTED.match(message)):
        return Head("stack", int(match["pid"]), match["comm"].strip(), match["state"])
    if "/stack" in message and len(message) < 300 and (match := _STACK_FILE.match(message)):
        return Head("stack", int(match["pid"]), "", "?")
    if first == "0" and (match := _SDB.match(message)):
        return Head("sdb", None, "", _SDB_STATES[match["state"]])
    if (
        len(message) < 160
        and (" D " in message or " S " in message or " R " in message or _STATE.search(message))
        and (match := _OLD_TASK.match(message))
    ):
        return Head("task", int(match["pid"]), match["comm"].strip(), match["state"])
    return None


# What ps(1) prints of a thread: its name in brackets, or the command that it runs.
_PS_NAME = r"\s{1,8}(?:\[(?P<comm>[^\[\]\s]{1,60})\]|(?P<command>[\w./+:@%-]{1,200})(?:\s.{0,160})?)$"
_PS_TTY = r"(?:\?|pts/\d{1,5}|tty\w{1,8}|console|hvc\d)"
_PS_TIME = r"(?:\d{1,5}-)?\d{1,5}:\d\d(?::\d\d)?"
_PS_STATE = r"(?P<state>[RSDTZI])[<NsLl+]{0,5}"
_PS = (
    # aux
    rf"[\w.+-]{{1,32}}\s{{1,20}}(?P<pid>\d{{1,7}})(?:\s{{1,8}}[\d.]{{1,6}}){{2}}(?:\s{{1,12}}\d{{1,12}}){{2}}\s{{1,8}}{_PS_TTY}"
    rf"\s{{1,8}}{_PS_STATE}\s{{1,8}}\S{{1,12}}\s{{1,8}}{_PS_TIME}",
    # -ef, and with -L a thread's number between those of its process
    rf"[\w.+-]{{1,32}}\s{{1,20}}(?P<pid>\d{{1,7}})\s{{1,12}}\d{{1,7}}\s{{1,8}}\d{{1,3}}\s{{1,8}}[\w:]{{1,12}}\s{{1,8}}{_PS_TTY}"
    rf"\s{{1,8}}{_PS_TIME}",
    rf"[\w.+-]{{1,32}}(?:\s{{1,20}}\d{{1,7}}){{2}}\s{{1,12}}(?P<pid>\d{{1,7}})\s{{1,8}}\d{{1,3}}\s{{1,8}}\d{{1,6}}\s{{1,8}}[\w:]{{1,12}}"
    rf"\s{{1,8}}{_PS_TTY}\s{{1,8}}{_PS_TIME}",
    # -el
    rf"\d\s{{1,4}}{_PS_STATE}\s{{1,8}}[\w.+-]{{1,32}}\s{{1,12}}(?P<pid>\d{{1,7}})\s{{1,12}}\d{{1,7}}\s.{{10,90}}?\s{_PS_TTY}"
    rf"\s{{1,8}}{_PS_TIME}",
    # ax, then -e, and with -T a thread's number behind that of its process
    rf"(?P<pid>\d{{1,7}})\s{{1,8}}{_PS_TTY}\s{{1,8}}{_PS_STATE}\s{{1,8}}{_PS_TIME}",
    rf"(?:\d{{1,7}}\s{{1,12}})?(?P<pid>\d{{1,7}})\s{{1,8}}{_PS_TTY}\s{{1,8}}{_PS_TIME}",
    # -o pid,ppid,stat and -o pid,stat, perhaps with the function that waits before the name
    rf"(?P<pid>\d{{1,7}})(?:\s{{1,12}}\d{{1,7}})?\s{{1,8}}{_PS_STATE}(?:\s{{1,12}}(?:[a-z]\w{{0,40}}_\w{{1,40}}|-)(?=\s{{1,8}}\S{{1,60}}$))?",
)
# What people write above a stack: `790`, `PID 790:`, `txg_sync (790)`, a line of ps.
_LOOSE = (
    re.compile(
        r"\S{1,32}\s{1,20}(?P<pid>\d{1,7})\s.{0,120}\s(?P<state>[RSDTZI])[<NsLl+]{0,4}\s.{0,60}\[(?P<comm>\S{1,60})\]$"
    ),
    *(re.compile(pattern + _PS_NAME, re.ASCII) for pattern in _PS),
    # sdb, with the command that the thread runs
    re.compile(r"PID: (?P<pid>\d{1,7}) (?P<command>[\w./+:@%-]{1,200})(?:\s.{0,160})?$", re.ASCII),
    re.compile(
        r"(?:\W{0,8})(?:[Pp][Ii][Dd][ :=#]{0,3})?(?P<pid>\d{1,7})\b[ :=)\]([-]{0,4}"
        r"(?P<comm>[A-Za-z_][\w/.:+-]{0,31})?\W{0,8}$"
    ),
    re.compile(
        r"(?:\W{0,8})(?P<comm>[A-Za-z_][\w/.:+-]{0,31})[ :=([-]{1,3}(?:[Pp][Ii][Dd][ :=#]{0,3})?"
        r"(?P<pid>\d{1,7})\W{0,8}$"
    ),
)
# Characters of a thread's name, TASK_COMM_LEN of include/linux/sched.h without its last.
_COMM_CHARS = 15


# What people number their stacks by.
_COUNTED = frozenset(("thread", "stack", "process", "task", "trace", "cpu"))
# Prompts, and words of commands that show a stack: a number behind them is a thread's, and they are no name.
_PROMPT = re.compile(
    r"(?:>>> |\.\.\. |\(gdb\) |(?:crash|drgn|sdb|kgdb|lldb)[\w.-]{0,20}> |\[?[\w.-]{1,32}@[^$#]{1,80}[$#] |[$#%] )+"
)
_COMMANDS = re.compile(
    r"(?:print\()?(?:\w{1,20}\.)?"
    r"(?:stack_trace|find_task|crashed_thread|thread apply|thread|stacks?|task|set|bt|ps|trace|pid|echo|cat)"
    r"\b(?: -[a-zA-Z]{1,8})*(?:[ (]{1,3}(?:prog, ?)?(?:pid[ =:]{1,3})?(?P<pid>\d{1,7}))?\b.{0,60}$"
)


# `thread 1 holds A and tries to get B:`
_SENTENCE = re.compile(
    r"(?P<name>(?:thread|process|task|context|path|stack) #?\w{1,4}) "
    r"(?:holds|holding|has|is|waits|waiting|wants|tries|trying|takes|taking|blocks)\b",
    re.IGNORECASE | re.ASCII,
)
# What stands before a number and is a place in a program.
_SOURCE_FILES = (".c", ".h", ".S", ".rs")


def loose_head(line: str) -> Head | None:
    """Whose stack it is by the line before it; only for stacks that nothing else says it of."""
    line = line.strip()[:240]
    line = line[prompt.end() :] if (prompt := _PROMPT.match(line)) else line
    if counted := _SENTENCE.match(line):
        return Head("stack", None, counted["name"], "?")
    if command := _COMMANDS.match(line):
        return Head("stack", int(command["pid"]), "", "?") if command["pid"] else None
    for pattern in _LOOSE:
        if match := pattern.match(line):
            found = match.groupdict()
            if (found.get("comm") or "").lower() in _COUNTED:
                return Head("stack", None, f"{found['comm']} {found['pid']}", "?")
            if (found.get("comm") or "").endswith(_SOURCE_FILES):
                return None
            comm = found.get("comm") or (found.get("command") or "").rpartition("/")[2].rstrip(":")[:_COMM_CHARS]
            return Head("stack", int(found["pid"]), comm, found.get("state") or "?")
    return None
