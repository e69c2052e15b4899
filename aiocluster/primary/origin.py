"""What a cluster starts from: its app, which is to be imported, or what another program left."""

import socket
from dataclasses import dataclass, field

from aiocluster.ipc.estate import Estate
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.primary.generations import GenerationSpawner
from aiocluster.primary.interpreter import Interpreter, StartedZygote
from aiocluster.primary.spawner import ZygoteSpawner
from aiocluster.primary.upgrade import Successor


@dataclass(slots=True, eq=False)
class Origin:
    """What is there before the first part is."""

    interpreter: Interpreter  # which starts the next zygote
    zygote: StartedZygote | None = None  # the first, where it was started already
    estate: Estate | None = None  # what another program left to us, its workers among it
    successor: Successor | None = None  # the program that may take our place
    inherited: list[socket.socket] = field(default_factory=list)  # served in the place of `bind`

    def new_spawner(self) -> GenerationSpawner:
        """Return what forks one generation: the first has the first zygote."""
        first, self.zygote = self.zygote, None
        return ZygoteSpawner(self.interpreter.start_zygote, first)

    def scoreboard(self) -> Scoreboard:
        """Return a new one, or the one that the workers we go on with write to."""
        if (estate := self.estate) is None:
            return Scoreboard()
        return Scoreboard(estate.scoreboard, {worker.row for worker in estate.crew.workers})

    def close(self) -> None:
        """Start no more zygotes. Idempotent."""
        self.interpreter.close()
