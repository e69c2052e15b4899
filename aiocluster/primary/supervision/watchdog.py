"""Watches the workers' heartbeats and queues; connections of a blocked worker go to others.

If a worker leaves its connections untaken, it loses them (`steal_after`). If its loop does not
turn, the primary logs its stacks (`lag_warning`), and in the end kills it (`hang_timeout`).
stall_detector.py decides which time counts.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from aiocluster.config.settings import Settings
from aiocluster.events import Event, WorkerBlocked
from aiocluster.ipc.scoreboard import HEARTBEAT, Scoreboard
from aiocluster.ipc.stacks import loop_stack
from aiocluster.metrics.process import free_fds
from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.supervision.stall_detector import (
    BEAT,
    Alarm,
    StallDetector,
    StallLimits,
    counted,
)
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.scoreboard_check import contradiction

log = logging.getLogger("aiocluster.watchdog")

# Seconds between two looks, at least.
_SHORTEST_PAUSE = 0.005

# The share of `steal_after` that a connection may wait untaken; the rest is for the worker that
# takes it, and for a busy machine.
_PATIENCE = 0.8

# Seconds in which a worker must write its stacks, and between two looks at them. The threads'
# stacks come within milliseconds; only a held interpreter uses up the time.
_ANSWER_TIMEOUT = 0.5
_ANSWER_PAUSE = 0.01

# Seconds that a worker with a spoilt row may take to exit: more of its memory may be spoilt, and
# its drain may wait for a count that failed.
_SPOILT_TIMEOUT = 3.0

# Descriptors that stealing leaves free in the primary, for its other work.
_SPARE_FDS = 16


class Watchdog:
    """A watcher of all workers: it looks at every heartbeat, and when a connection is overdue."""

    def __init__(
        self,
        settings: Settings,
        scoreboard: Scoreboard,
        dispatcher: Dispatching,
        workers: Mapping[int, WorkerHandle],
        publish: Callable[[Event], None],
    ) -> None:
        steal_after = settings.steal_after
        self._limits = StallLimits(steal_after, settings.lag_warning, settings.hang_timeout)
        self._steal_after = steal_after
        self._steal_at = steal_after * _PATIENCE
        # A connection sent just after a look must be seen in time at the next.
        self._longest_pause = min(BEAT, steal_after / 2)
        self._scoreboard = scoreboard
        self._dispatcher = dispatcher
        self._workers = workers
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._watches: dict[int, _WatchedWorker] = {}
        self._examinations: set[asyncio.Task[None]] = set()
        self._last = 0.0
        self._pause = self._longest_pause
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look at the workers."""
        self._last = self._loop.time()
        self._timer = self._loop.call_later(self._pause, self._tick)

    def close(self) -> None:
        """Stop looking at the workers. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for examination in self._examinations:
            examination.cancel()

    def look(self, now: float) -> float:
        """Look at every worker; return in how many seconds to look again."""
        elapsed, self._last = now - self._last, now
        passed = counted(elapsed, self._pause)
        if self._watches.keys() != self._workers.keys():
            self._meet_workers()
        due = self._longest_pause
        for watch in self._watches.values():
            if elapsed > passed:
                watch.worker.backend.excuse_pause(elapsed - passed, now)
            if watch.must_beat:
                self._check_figures(watch)
            if watch.must_beat:
                due = min(due, self._look_at(watch, now, passed))
        self._pause = max(due, _SHORTEST_PAUSE)
        return self._pause

    def _tick(self) -> None:
        try:
            self.look(self._loop.time())
        finally:
            self._timer = self._loop.call_later(self._pause, self._tick)

    def _meet_workers(self) -> None:
        known = self._watches
        self._watches = {
            worker_id: known.get(worker_id) or self._watch(worker)
            for worker_id, worker in self._workers.items()
        }

    def _watch(self, worker: WorkerHandle) -> "_WatchedWorker":
        beat = self._scoreboard.reader(worker.row, HEARTBEAT)
        return _WatchedWorker(
            worker, self._scoreboard.figures(worker.row), beat, StallDetector(self._limits)
        )

    def _look_at(self, watch: "_WatchedWorker", now: float, passed: float) -> float:
        """Return in how many seconds to look at the worker's connections again."""
        self._observe(watch, passed)
        detector, backend = watch.detector, watch.worker.backend
        backend.check_room()
        waited = backend.waited(now)
        is_due = waited >= self._steal_at
        detector.is_late = detector.is_late or is_due
        if backend.is_stuck != detector.is_stuck:
            backend.is_stuck = detector.is_stuck
            self._dispatcher.update(now)
        if is_due:
            self._steal(watch, now)
        return self._longest_pause if is_due else self._steal_at - waited

    def _check_figures(self, watch: "_WatchedWorker") -> None:
        """Disconnect a worker if its figures cannot be true at two looks: it has spoilt its row."""
        worker, board = watch.worker, self._scoreboard
        before, after = board.figures(worker.row), board.figures(worker.row)
        was_doubted = watch.is_doubted
        sent, now = worker.backend.sent, time.monotonic_ns()
        why = contradiction(watch.figures, before, after, sent, now)
        watch.is_doubted = bool(why)
        if not why:
            watch.figures = after
        if why and was_doubted:
            # The worker can then count again what it finishes.
            board.clear(worker.row)
            worker.disconnect(f"cannot be right in what it counts ({why})", _SPOILT_TIMEOUT)

    def _observe(self, watch: "_WatchedWorker", passed: float) -> None:
        detector = watch.detector
        stalled, told = detector.stalled, detector.was_told
        if (alarm := detector.observe(watch.beat(), passed)) is not None:
            self._begin_to_examine(watch, alarm)
        elif told and not detector.was_told:
            log.info("%s: its loop turns again, after about %.1f s", watch.worker, stalled)

    # ---- stealing

    def _steal(self, watch: "_WatchedWorker", now: float) -> None:
        backend = watch.worker.backend
        # Else the connections would only come back, or be lost for want of a descriptor.
        if not self._dispatcher.has_responsive(now) or free_fds() < backend.queued + _SPARE_FDS:
            return
        if stolen := backend.reclaim():
            # More may follow, sent while no other worker had capacity: one log line is enough.
            again, watch.detector.queue_was_reclaimed = watch.detector.queue_was_reclaimed, True
            log.log(
                logging.DEBUG if again else logging.INFO,
                "%d connections that %s has not taken go to others (steal_after %g s)",
                len(stolen),
                watch.worker,
                self._steal_after,
            )
            self._dispatcher.dispatch(stolen, now)

    # ---- loops that do not turn

    def _begin_to_examine(self, watch: "_WatchedWorker", alarm: Alarm) -> None:
        examination = start_task(self._examine(watch, alarm), f"examining {watch.worker}")
        self._examinations.add(examination)
        examination.add_done_callback(self._examinations.discard)

    async def _examine(self, watch: "_WatchedWorker", alarm: Alarm) -> None:
        """Log and publish the worker's stacks; kill the worker if it hangs."""
        worker, seconds = watch.worker, watch.detector.stalled
        async with watch.examining:  # the worker has one file for its stacks
            stack = await _stacks_of(worker)
        if not watch.must_beat:  # dead meanwhile: its exit is its last event
            return
        end = ", which is too long (hang_timeout)" if alarm is Alarm.HANGS else ""
        log.warning(
            "%s: its loop has not turned for %.1f s%s\n%s",
            worker,
            seconds,
            end,
            _for_the_log(stack),
        )
        self._publish(WorkerBlocked(worker, seconds, stack))
        # The loop may turn again, even since the last look: look once more.
        hangs = watch.detector.stalled >= seconds and not watch.detector.has_beaten(watch.beat())
        if alarm is Alarm.HANGS and hangs:
            worker.kill_for("hang", stack)


def _for_the_log(stack: str) -> str:
    if not stack:
        return "(the worker gave no stack: it is stopped, or the kernel does not let it run)"
    if log.isEnabledFor(logging.DEBUG):
        return stack
    short = loop_stack(stack)
    rest = "" if short == stack else ": all are in WorkerBlocked, and here with log_level=debug"
    return f"{short}{rest}"


class _WatchedWorker:
    """One worker under watch, with its last figures and its stall detector."""

    def __init__(
        self,
        worker: WorkerHandle,
        figures: list[int],
        beat: Callable[[], int],
        detector: StallDetector,
    ) -> None:
        self.worker = worker
        self.figures = figures  # the last that could be true
        self.beat = beat
        self.detector = detector
        self.is_doubted = False  # at the last look its figures could not be true
        self.examining = asyncio.Lock()

    @property
    def must_beat(self) -> bool:
        """True if the worker lives and is past its boot, which has its own limit."""
        return self.worker.was_ready and not self.worker.backend.is_closed


async def _stacks_of(worker: WorkerHandle) -> str:
    """Return the stacks of a worker's threads and tasks; "" if they do not come in time."""
    worker.ask_for_stacks()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ANSWER_TIMEOUT
    # No event tells that a file grew.
    while not worker.stacks.is_complete and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_ANSWER_PAUSE)
    return worker.stacks.take()
