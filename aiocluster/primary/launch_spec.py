"""What a cluster starts from: the apps to import, or what another program left."""

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
    """What is there before the first part is. Each role has an entry in `interpreters`."""

    interpreters: dict[str, InterpreterSpec]  # each starts the next zygote of its role
    zygotes: dict[str, StartedZygote] = field(default_factory=dict)  # those started already
    handover_state: HandoverState | None = (
        None  # what another program left to us, its workers among it
    )
    successor: NextProgram | None = None  # the program that may take our place
    inherited: list[socket.socket] = field(default_factory=list)  # served in the place of `bind`
    say: Callable[[str], None] = log.info  # for what the user who starts the program should read

    @property
    def own_group(self) -> bool:
        """Has each zygote a process group of its own?"""
        return any(interpreter.own_group for interpreter in self.interpreters.values())

    def new_spawner(self, role: str) -> GenerationSpawner:
        """Return what forks one generation of a role: the first has the first zygote."""
        first = self.zygotes.pop(role, None)
        return ZygoteSpawner(self.interpreters[role].start_zygote, first, role)

    def scoreboard(self) -> Scoreboard:
        """Return a new one, or the one that the workers we go on with write to."""
        if (handover_state := self.handover_state) is None:
            return Scoreboard()
        return Scoreboard(
            handover_state.scoreboard, {worker.row for worker in handover_state.workers}
        )

    def close(self) -> None:
        """Start no more zygotes. Idempotent."""
        for interpreter in self.interpreters.values():
            interpreter.close()
