"""The steps of a scenario, taken in a guest: the same in real time and in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splvm.deadline import Deadline
from splvm.guest.agent import Agent
from splvm.log import LOGGER
from splvm.record.writer import RunDirectory
from splvm.run.live import LiveReadings
from splvm.run.scenarios import Step

# Seconds of the host that a command may take.
_COMMAND_S = 20.0


def take_steps(
    steps: Sequence[Step],
    agent: Agent,
    live: LiveReadings,
    record: RunDirectory,
    deadline: Deadline,
    *,
    before: Callable[[str], None],
    after: Callable[[str], None],
) -> None:
    """Take one step after the other.

    :param before: called with the name of each step before it is taken.
    :param after: and after it.
    :raises GuestLostError: when the agent is gone.
    :raises GuestCommandError: when the probe refuses a command.
    :raises DeadlineExceeded: when the host's own budget is used up.
    """
    for step in steps:
        before(step.name)
        _take_step(step, agent, live, record, deadline)
        after(step.name)


def _take_step(step: Step, agent: Agent, live: LiveReadings, record: RunDirectory, deadline: Deadline) -> None:
    LOGGER.debug("step %s: %s", step.name or "(wait)", ", ".join(step.commands) or "wait")
    if step.name:
        record.record_phase(step.name)
        live.begin(agent.command(f"mark {step.name}", deadline.sub(_COMMAND_S)))
    else:
        live.begin()
    for command in step.commands:
        agent.command(command, deadline.sub(_COMMAND_S))
    done = live.wait_until(step.until, step.limit_s, agent, deadline)
    if done and step.then:
        record.record_phase(step.then)
        agent.command(f"mark {step.then}", deadline.sub(_COMMAND_S))
    elif not done:
        LOGGER.debug("step %s: not done after %.1f s of guest time", step.name, step.limit_s)
