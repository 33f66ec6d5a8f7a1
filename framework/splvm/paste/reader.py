"""One pass over an input: from its bytes to messages, and to whom each message is for.

Owns which lines are looked at, which machine a line is from, and the account of what could not be read. Undone are
mails and pages by cleaning.py, records of other programs by records.py, and what stands before a message by
prefixes.py; logs.py reads a machine's log, files.py what is none.

Nothing grows with the text: threads, findings and moments are bounded, and what is left out is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from splvm.errors import EvidenceError
from splvm.paste.cleaning import MAX_LINE, Cleaner
from splvm.paste.frames import TRACE, Frame, frames_of, head_of, loose_head
from splvm.paste.labels import announces, label_of
from splvm.paste.lines import Block, read_blocks
from splvm.paste.logs import Log
from splvm.paste.names import note_names
from splvm.paste.plain import (
    Steps,
    act_of,
    column_of,
    is_bare,
    is_half_path,
    path_of,
    steps_before,
    steps_of,
    word_of,
)
from splvm.paste.prefixes import Learned, Line, Stripper
from splvm.paste.reading import Input, Reading
from splvm.paste.records import Record, RecordReader
from splvm.paste.wrapping import Joiner, begins_task, complete, fill_of, is_half, split_escaped, split_lines

# Lines that say nothing and may still stand within a report, and within one of a crash.
PATIENCE = 60
# The same after a line that says that a stack follows.
_PATIENCE_AFTER_LABEL = 4
# What says nothing in a log, and nobody misses; and lines of a gap of which it is asked.
_IDLE = re.compile(
    r"-\[ cut here \]-|hung_task_timeout_secs|Tainted: |Modules linked in|^\W{0,8}[0-9a-f ]{30,}$"
    r"|Content-T(?:ype|ransfer-Encoding): |^\[[^\]]{1,60}\]$"
)
_MAX_ASKED = 200
# Lines that are looked at however short they are, and for how many bytes of the input there is one more: what is made
# of nothing but the beginnings of complaints takes no longer than a log does.
LEAST_LINES = 100_000
BYTES_PER_LINE = 30
# A shorter line is no several ones.
_LONG = 80
# What a line of a kind costs besides.
_COSTS = {"log": 2, "slab": 2}
# What a thread costs besides its lines.
_THREAD_COST = 8
# What it costs to read the line before one once more.
_ABOVE_COST = 4
# Characters of a line that an answer repeats.
MAX_UNREAD_CHARS = 60
# Names of machines kept of a text.
MAX_HOSTS = 100


class Reader:
    """Reads one input into a reading; make another one for the next."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name = name
        self.into = reading
        self.cleaner = Cleaner()
        # For what is within records.
        self.plain = Cleaner()
        self.records = RecordReader()
        self.stripper = Stripper()
        self.learned = Learned()
        self.joiner = Joiner()
        # The logs of this input by the name of the machine, and the one that a line without a name is for.
        self.logs: dict[str, Log] = {"": Log(reading)}
        self.log = self.logs[""]
        # The beginning of a line whose end is in the next one.
        self.half = ""
        self.patience = 0
        # Lines of each kind, the last one that was used, and where the record began that is read.
        self.used: Counter[str] = Counter()
        self.last_used = 0
        self.record_from = 0
        # Lines that programs wrote and that look like a kernel's: who, and where the first one is.
        self.written: Counter[str] = Counter()
        self.written_at = 0
        # A line of which nothing could be made: the next one that says the same is not looked at.
        self.dull = ""
        # Lines that may be a stack of functions alone.
        self.steps = Steps()
        # Whether the line before was blank.
        self.apart = False
        # Lines that were looked at, and whether they were too many.
        self.looked = 0
        self.tired = False
        # Moments of the inputs before this one, and what there was no room for in them.
        self.moments_before = len(reading.moments)
        self.dropped = +reading.dropped
        # The last lines.
        self.last = Block(1, [])
        reading.files.begin(name)

    def read(self, stream: BinaryIO) -> None:
        """Read all of it.

        Whatever the input is, nothing is raised; what cannot be read is in `unread`.
        """
        end = 0
        try:
            for block in read_blocks(stream):
                if block.backwards and not end:
                    self.into.complain(1, "it is written backwards, the latest line first: read from its end")
                self.read_block(block)
                self.last = block
                end = block.number + len(block.lines)
        except EvidenceError as error:
            self.into.complain(max(1, end), error.message)
        self.finish(end)

    # Lines

    @property
    def busy(self) -> bool:
        """Whether the next line may belong to what was read."""
        waits = self.cleaner.waits or self.cleaner.quoted or self.records.waits
        return self.patience > 0 or waits or bool(self.steps.steps)

    def read_block(self, block: Block) -> None:
        lines = block.lines
        at = 0 if self.busy else block.next_hint(0)
        while at < len(lines):
            text = lines[at]
            self.looked += 1
            if self.looked > LEAST_LINES + block.bytes_read // BYTES_PER_LINE:
                self.tire(block.number_of(at))
                return
            joined = 1
            if not self.busy:
                if text == self.dull:
                    at = block.next_hint(at + 1)
                    continue
                begin = self.begin_at(block, at)
                self.patience = max(self.patience, at - begin + 1)
                at, text = begin, lines[begin]
            if not text:
                self.apart = True
                self.log.note_blank()
            else:
                joined = self.read_line(block, at, text)
                if joined > 1 and self.last_used == block.number_of(at):
                    self.last_used += joined - 1
            self.dull = "" if self.busy else text
            at = at + joined if self.busy else block.next_hint(at + joined)

    def begin_at(self, block: Block, at: int) -> int:
        """Where to begin to read for the sake of a line: its record, or its stack, may have begun before it."""
        lines = block.lines
        begin = at - steps_before(lines, at)
        if begin and begin == at and "race:" in lines[at - 1] and TRACE.match(Stripper().strip(lines[at - 1]).message):
            # The name of its thread may stand above that line.
            begin -= 1
        before = next((it for it in reversed(lines[max(0, begin - 3) : begin]) if it.strip()), "")
        self.log.before = "".join(self.cleaner.clean(before)[-1:]) if self.cleaner.rich else before
        if "MESSAGE" in lines[at][:24] or '"' in lines[at][:24]:
            for place in range(at - 1, max(-1, at - 60), -1):
                before = lines[place][:4000].strip()
                if not before or ("=" not in before and '"' not in before and before[0] not in "{}[]"):
                    break
                begin = place
                if before[0] in "{}[]" or "[s=" in before:
                    break
        return begin

    def tire(self, number: int) -> None:
        """Leave out the rest of a block that has too many lines for its size."""
        if not self.tired:
            self.into.complain(number, "too many short lines that look like complaints: the rest of them is left out")
        self.tired = True
        self.patience = 0

    def read_line(self, block: Block, at: int, text: str) -> int:
        """Read a line, and give how many lines of the block it is made of."""
        self.patience -= 1
        number, joined = block.number_of(at), 1
        if "] " in text and (joined := fill_of(block.lines, at)) > 1:
            text = " ".join(block.lines[at : at + joined])
        parts = self.cleaner.clean(text)
        whole = joined == len(parts) == 1 and not (self.cleaner.waits or self.cleaner.quoted or block.backwards)
        self.looked += max(0, len(parts) - 1)
        for part in parts:
            records = self.records.take(part)
            if records is not None:
                self.record_from = self.record_from or number
                self.take_records(number, records, block)
                continue
            self.record_from = 0
            pieces = [part]
            if len(part) > _LONG:
                pieces = [it[:MAX_LINE] for piece in split_escaped(part) for it in split_lines(piece)]
                self.looked += len(pieces) - 1
            for piece in pieces:
                rest = self.learned.strip(piece)
                line = self.strip(piece, rest)
                line.number = number
                if whole and len(pieces) == 1:
                    joined = self.joiner.join(block.lines, at, line)
                self.take_piece(line, piece, block, learn=rest is None)
        if self.cleaner.trouble:
            self.into.complain(number, self.cleaner.trouble)
            self.cleaner.trouble = ""
        return joined

    def strip(self, piece: str, rest: str | None) -> Line:
        """The message of a line, of which `rest` comes behind a prefix that was learned."""
        if rest is None:
            return self.stripper.strip(piece)
        line = self.stripper.strip(rest)
        if not line.stamped:
            # What was learned may have in it what is known.
            known = self.stripper.strip(piece)
            line.time, line.time_s, line.elapsed_s = known.time, known.time_s, known.elapsed_s
            line.host, line.caller, line.stamped = known.host, known.caller, known.stamped
        return line

    def take_records(self, number: int, records: list[Record], block: Block) -> None:
        """Take the messages of records that are whole."""
        for record in records:
            outer = self.stripper.strip(record.before) if record.before.strip() else Line("")
            message = (
                "".join(self.plain.clean_text(record.message)[:1])
                if not record.message.isprintable()
                else record.message
            )
            line = self.stripper.strip(message)
            line.number = number
            if line.time_s is None and (record.time or outer.time):
                line.time = record.time or outer.time
                line.time_s, line.elapsed_s = record.time_s, record.elapsed_s
            line.host = line.host or record.host or outer.host
            line.program = line.program or record.program
            self.take_piece(line, record.message, block, learn=True)

    def take_piece(self, line: Line, piece: str, block: Block, *, learn: bool) -> None:
        """Take a message, if need be behind a prefix that nobody knew."""
        self.take_words(line, piece, block, learn=learn)
        self.apart = not line.message.strip()

    def take_words(self, line: Line, piece: str, block: Block, *, learn: bool) -> None:
        """The same, whether it says something or not."""
        if self.half and begins_task(line.message):
            self.take_between(line, piece, block)
            return
        if self.half:
            line.message, self.half = f"{self.half.rstrip()} {line.message}", ""
        if (self.steps.steps or is_bare(line.message)) and self.take_step(line, piece, block):
            return
        if not line.message:
            if line.fenced:
                self.log.note_edge()
            self.log.note_blank()
            # A time alone, as date(1) prints it above what comes.
            self.log.before = piece if line.time else self.log.before
            return
        if is_half(line.message) or is_half_path(line.message):
            self.half = line.message[:400]
            self.patience = max(self.patience, 2)
            return
        self.take_message(line, piece, block, learn=learn)

    def take_between(self, line: Line, piece: str, block: Block) -> None:
        """Take the first line of a thread where that of another one is not at its end.

        Two CPUs print into each other then, and nothing says which of the two goes on in the next line.
        """
        half, self.half = replace(line, message=self.half, number=line.number - 1), ""
        self.take_message(half, half.message, block, learn=False)
        self.take_message(line, piece, block, learn=False)
        if is_half(line.message) and (thread := self.log.threads.open.get(line.caller)) is not None:
            self.log.threads.mix(thread)

    def take_message(self, line: Line, piece: str, block: Block, *, learn: bool) -> None:
        """The same of one that is whole."""
        asked = self.log.asked
        kind = self.take(line)
        self.looked += _ABOVE_COST * max(0, self.log.asked - asked)
        weak = self.log.weak
        if (not kind or weak) and learn and not line.program and self.learned.learn(piece, line.message, weak=weak):
            again = self.strip(piece, self.learned.strip(piece))
            again.number = line.number
            kind = self.take(again)
        if kind:
            self.use(line.number, kind, block)
        else:
            self.log.before = piece
            if announces(line.message):
                self.patience = max(self.patience, _PATIENCE_AFTER_LABEL)
                self.looked += 1

    def take_step(self, line: Line, piece: str, block: Block) -> bool:
        """Whether a line may be of a stack of functions alone, which is read when it is at its end."""
        if not line.message or line.program:
            return False
        if (path := path_of(line.message)) is not None:
            self.end_steps(block, line)
            self.looked += _THREAD_COST
            self.log.threads.take_plain(line, *path, None)
            self.use(line.number, "stack", block)
            return True
        column = column_of(piece, line.message)
        steps = steps_of(line.message, column)
        if not steps and self.steps.steps and (act := act_of(line.message, column)) is not None:
            steps = (act,)
        if not steps and self.steps.steps and (word := word_of(line.message, column)) is not None:
            steps = (word,)
        right = self.steps.is_right(steps)
        if not right and self.steps.goes_on(line.message, column):
            return True
        if self.steps.steps and not right and (not steps or self.steps.begins_another(steps[0])):
            self.end_steps(block, line)
        if steps:
            above = None if self.steps.steps else self.log.above()
            self.steps.add(steps, line, piece, above.message if above else "")
        return bool(steps)

    def end_steps(self, block: Block, after: Line | None = None) -> None:
        """The lines that may have been a stack are at their end.

        :param after: the line that comes then.
        """
        names = self.steps.take_names(after, apart=self.apart) if after is not None else []
        self.take_steps(block)
        for line, name in names:
            self.log.take_frames(line, (Frame(name),))
            self.use(line.number, "stack", block)

    def take_steps(self, block: Block) -> None:
        """The same without those that belong to the next line."""
        seems_one, lines = self.steps.seems_one, self.steps.lines
        thread = self.log.threads.begun(lines[0][0]) if lines else None
        stacks = self.steps.finish(headed=thread is not None)
        # They are read twice, by themselves and as a stack.
        self.looked += len(lines) + _THREAD_COST * len(stacks)
        if not stacks:
            for line, piece in lines:
                self.take_message(line, piece, block, learn=False)
            if seems_one:
                self.into.complain(
                    lines[0][0].number, f"{count_of(len(lines))} like a stack: no function that waits is where one ends"
                )
            return
        for at, (stack, label) in enumerate(stacks):
            if thread is not None and not at:
                self.log.threads.fill(thread, stack)
            else:
                self.log.threads.take_plain(lines[0][0], stack, *label_of(label))
        self.log.before = ""
        self.use(lines[0][0].number, "stack", block)
        self.last_used = max(self.last_used, lines[-1][0].number)

    def take(self, line: Line) -> str:
        """The kind of text that a line is, empty if it is none."""
        if line.host:
            self.choose_log(line.host)
        note_names(line.message, self.into.names)
        if line.program:
            return self.take_written(line)
        return self.log.take(line) or self.take_file(line)

    def choose_log(self, host: str) -> None:
        if len(self.into.hosts) < MAX_HOSTS:
            self.into.hosts.add(host)
        if host not in self.logs:
            if "" in self.logs:
                # Lines without a name are of the first machine that is named.
                self.logs[host] = self.logs.pop("")
                for moment in self.into.moments[self.moments_before :]:
                    moment.host = moment.host or host
            elif len(self.logs) < MAX_HOSTS:
                self.logs[host] = Log(self.into)
        self.log = self.logs.get(host) or next(reversed(self.logs.values()))

    def take_written(self, line: Line) -> str:
        """A line that a program wrote: ZFS's own daemon hands on what its module says, others are no witness."""
        if self.log.take_single(line):
            return "log"
        if (
            frames_of(line.message) is not None
            or head_of(line.message)
            or self.log.complaints.scanner.kind_of(line.message)
        ):
            self.written[line.program] += 1
            self.written_at = self.written_at or line.number
        return ""

    def take_file(self, line: Line) -> str:
        kind = self.into.files.take(line.number, line, self.log.before)
        if kind and kind != "collector":
            self.log.threads.close()
            self.into.facts.take(kind, line.message)
            self.log.before = ""
        return kind

    # The account

    def use(self, number: int, kind: str, block: Block) -> None:
        """Note that a line was of use, and what lay between it and the one before."""
        self.used[kind] += 1
        self.looked += _COSTS.get(kind, 0)
        self.patience = PATIENCE
        first = self.record_from or number
        if not block.backwards and first > self.last_used + 1:
            begin = max(self.last_used + 1, block.number)
            lost = lines_that_say(block.lines[begin - block.number : first - block.number])
            if lost and kind == "stack" and loose_head(lost[-1]) is not None:
                # It says whose stack it is.
                lost.pop()
            self.lose(begin, lost)
        self.last_used = max(number, self.last_used)
        self.record_from = 0

    def lose(self, begin: int, lost: Sequence[str]) -> None:
        """Say that nothing was made of some lines."""
        if lost:
            shown = f"{count_of(len(lost))} of no kind that is known here, from {lost[0][:MAX_UNREAD_CHARS]!r} on"
            self.into.complain(begin, shown)

    def finish(self, end: int) -> None:
        """The input is at its end."""
        block = Block(end, [""])
        self.take_records(max(1, end - 1), self.records.finish(), block)
        if self.steps.steps:
            self.end_steps(block)
        above = self.log.above() or Line("")
        half, self.half = self.half, ""
        if rest := complete(half or above.message) or half:
            above.message, above.number = rest, max(1, end - 1)
            if kind := self.take(above):
                self.use(above.number, kind, block)
        for log in self.logs.values():
            log.finish()
        self.into.files.finish()
        if self.used and not self.last.backwards and not self.tired:
            begin = max(self.last_used + 1, self.last.number)
            self.lose(begin, lines_that_say(self.last.lines[begin - self.last.number :]))
        for program, count in self.written.most_common(5):
            what = f"{count_of(count)} like the kernel's, written by {program[:60]}, which is not the kernel"
            self.into.complain(self.written_at, what)
        self.account(end)

    def account(self, end: int) -> None:
        """Say what kinds of text the input has, and what is no evidence."""
        if self.used["splvm"]:
            own = count_of(self.used.pop("splvm"))
            self.into.complain(1, f"{own} of an answer of splvm's own, which is no evidence")
        for what, count in (self.into.dropped - self.dropped).items():
            self.into.complain(0, f"{count} {what} were not kept: there were too many")
        if not self.used and end > 0:
            self.into.complain(1, "nothing of a kind that is known here")
        for kind, lines in self.used.items():
            self.into.inputs.append(Input(self.name, kind, lines))
        if not self.used:
            self.into.inputs.append(Input(self.name, "unknown", 0))


def count_of(lines: int) -> str:
    """A number of lines in words."""
    return f"{lines} {'line' if lines == 1 else 'lines'}"


def lines_that_say(lines: list[str]) -> list[str]:
    """Lines that say something; of long gaps it is not asked what they say."""
    told = [line.strip() for line in lines if line.strip(" \t\r>`-=*{}[],")]
    return told if len(lines) > _MAX_ASKED else [line for line in told if not _IDLE.search(line)]
