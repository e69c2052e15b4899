"""What a program under test prints; it imports no more than it needs, in each of its starts."""

import os

from aiocluster import Cluster, WorkerEvent, WorkerExited, WorkerMessage


async def print_events(cluster: Cluster) -> None:
    """Print each event in one line; an `on_start` for programs."""
    cluster.on(WorkerEvent, _print_event)


def _print_event(event: WorkerEvent) -> None:
    worker = event.worker
    text = f"event {type(event).__name__} id={worker.id} slot={worker.slot} pid={worker.pid}"
    match event:
        case WorkerExited():
            text += f" code={event.code} signal={event.signal} reason={event.reason}"
        case WorkerMessage():
            text += f" message={event.message!r}"
    os.write(1, f"{text}\n".encode())
