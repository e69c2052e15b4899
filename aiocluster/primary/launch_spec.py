"""The basis of a cluster's start: the apps to import, or the state of the previous program."""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from aiocluster.ipc.handover import HandoverState
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.launch.interpreter import InterpreterSpec, StartedZygote
from aiocluster.primary.lifecycle.upgrade import NextProgram
from aiocluster.primary.processes.generations import GenerationSpawner
from aiocluster.primary.processes.spawner import ZygoteSpawner

log = logging.getLogger("aiocluster")


@dataclass(slots=True, eq=False)
class LaunchSpec:
    """The start conditions of a cluster. Each role has an entry in `interpreters`."""

    interpreters: dict[str, InterpreterSpec]  # each starts its role's zygotes
    zygotes: dict[str, StartedZygote] = field(default_factory=dict)  # those that run already
    handover_state: HandoverState | None = None  # of the previous program, with its workers
    successor: NextProgram | None = None  # the program that an upgrade executes
    inherited: list[socket.socket] = field(default_factory=list)  # served in place of `bind`
    say: Callable[[str], None] = log.info  # shows a line to the program's user

    @property
    def own_group(self) -> bool:
        """True if each zygote has a process group of its own."""
        return any(interpreter.own_group for interpreter in self.interpreters.values())

    def new_spawner(self, role: str) -> GenerationSpawner:
        """Return the spawner of a role's next generation; the first one has the first zygote."""
        first = self.zygotes.pop(role, None)
        return ZygoteSpawner(self.interpreters[role].start_zygote, first, role)

    def scoreboard(self) -> Scoreboard:
        """Return a new scoreboard, or the one that the previous program's workers write to."""
        if (handover_state := self.handover_state) is None:
            return Scoreboard()
        return Scoreboard(
            handover_state.scoreboard, {worker.row for worker in handover_state.workers}
        )

    def close(self) -> None:
        """Start no more zygotes. Idempotent."""
        for interpreter in self.interpreters.values():
            interpreter.close()
