"""The life of a program, with a cluster that the test plays."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from aiocluster.cluster import Cluster
from aiocluster.config.roles import Role, plan_from
from aiocluster.errors import BootError, ClusterStopping, ConfigError
from aiocluster.program.runner import ProgramRunner
from aiocluster.program.signals import handled_signals, release_signals
from aiocluster.program.stop_watchdog import StopWatchdog
from tests.support.clock import Clock
from tests.support.waiting import soon, turns, turns_until


class FakeCluster:
    """Starts and stops at a word."""

    def __init__(self) -> None:
        self.plan = plan_from("pkg.module:name", None, {"graceful_timeout": 30})
        self.settings = self.plan.settings
        self.addresses_of = {"web": (("127.0.0.1", 8000),)}
        self.workers = {1: object()}
        self.done: list[str] = []
        self.cut: list[str] = []
        self.exit_code = 0
        self.start_error: Exception | None = None
        self.is_upgrade = False
        self.announced = asyncio.Event()
        self.reload_error: Exception | None = None
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.may_start, self.may_stop = asyncio.Event(), asyncio.Event()
        self.empty, self.all_finished = asyncio.Event(), False
        self.waiting = False
        self.has_idle_grace = True
        self.may_start.set()
        self.may_stop.set()

    @property
    def graceful_timeout(self) -> float:
        return self.plan.graceful_timeout

    async def start(self) -> None:
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error
        self.started.set()

    async def stop(self, timeout: float | None) -> list[str]:  # noqa: ASYNC109
        # None: each role has its own time.
        own = {role.settings.graceful_timeout for role in self.plan.roles.values()}
        seconds = own if timeout is None else {timeout}
        self.done.append("stop " + " and ".join(f"{one:g}" for one in sorted(seconds)))
        self.stopping.set()
        await self.may_stop.wait()
        return self.cut

    async def reload(self) -> None:
        self.done.append("reload")
        if self.reload_error is not None:
            raise self.reload_error

    async def upgrade(self) -> None:
        self.done.append("upgrade")
        if self.reload_error is not None:
            raise self.reload_error

    async def scale(self, workers: int | str, *, role: str) -> None:
        self.done.append(f"scale {role} {workers}")
        if self.reload_error is not None:
            raise self.reload_error

    def announce(self) -> None:
        self.announced.set()

    async def wait_empty(self) -> None:
        await self.empty.wait()

    def end_idle_grace(self) -> None:
        self.has_idle_grace = False

    def stop_now(self) -> None:
        self.done.append("hurry")

    def skip_pre_drain_wait(self) -> bool:
        waiting, self.waiting = self.waiting, False
        if waiting:
            self.done.append("end wait")
        return waiting

    def kill(self) -> None:
        self.done.append("kill")
        self.may_stop.set()


class Stage:
    """A life that is lived."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.hook: Callable[[Any], Awaitable[None]] | None = None
        self.guard = StopWatchdog(lambda seconds: None)

    def begin(self) -> "asyncio.Task[int]":
        life = ProgramRunner(cast(Cluster, self.cluster), self.hook, self.guard)
        return asyncio.create_task(life.live())

    async def ends_with(self, code: int) -> None:
        assert await soon(self.begin()) == code


@pytest.fixture
async def stage(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    caplog.set_level("INFO")
    stage = Stage()
    yield stage
    loop = asyncio.get_running_loop()
    for number in handled_signals():
        loop.remove_signal_handler(number)
    release_signals()
    stage.guard.close()


def press(number: int) -> None:
    os.kill(os.getpid(), number)


async def test_a_stop_is_graceful(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """TERM waits for graceful_timeout, and what nobody had to cut is a 0."""
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGTERM)

    assert await soon(living) == 0
    assert stage.cluster.done == ["stop 30"]
    assert "serving on http://127.0.0.1:8000 with 1 worker (pid" in capsys.readouterr().out


async def test_each_role_is_stopped_in_its_own_time(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells the longest, with all that a stop may take beside it."""
    roles = {
        "web": Role("pkg.module:serve", graceful_timeout=5),
        "jobs": Role("pkg.module:work", graceful_timeout=70),
    }
    stage.cluster.plan = plan_from(None, roles, {"pre_drain_wait": 4})
    stage.cluster.settings = stage.cluster.plan.settings
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGTERM)

    assert await soon(living) == 0
    assert stage.cluster.done == ["stop 5 and 70"]
    assert "stopping, within 77 s (pre_drain_wait 4, graceful_timeout 70, and 3 " in caplog.text


async def test_what_was_cut_is_a_1(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """And named."""
    stage.cluster.cut = ["worker 7 (pid 70)"]
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGINT)

    assert await soon(living) == 1
    assert "worker 7 (pid 70) could not finish what it had begun" in caplog.text


async def test_a_term_leaves_idle_connections_their_grace(stage: Stage) -> None:
    """An INT does not: see below."""
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGTERM)

    assert await soon(living) == 0
    assert stage.cluster.has_idle_grace


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_quit_hurries_a_stop_that_is_under_way(stage: Stage, first: int) -> None:
    """What runs is cut, but hooks still run: nobody is killed."""
    stage.cluster.may_stop.clear()
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(first)
    await soon(stage.cluster.stopping.wait())
    press(signal.SIGQUIT)
    await turns_until(lambda: "hurry" in stage.cluster.done)
    stage.cluster.may_stop.set()

    assert await soon(living) == 0
    assert stage.cluster.done == ["stop 30", "hurry"]


async def test_quit_alone_waits_for_nothing(stage: Stage) -> None:
    """A stop with no time."""
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGQUIT)

    assert await soon(living) == 0
    assert stage.cluster.done[-1] == "stop 0"


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_only_a_second_int_kills(
    stage: Stage, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is the first, also after a TERM; one right after it is the same one."""
    monkeypatch.setattr("aiocluster.program.runner._SAME_INT", 0.0)
    stage.cluster.may_stop.clear()
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(first)
    await soon(stage.cluster.stopping.wait())
    if first == signal.SIGTERM:
        press(signal.SIGINT)
        await asyncio.sleep(0.01)  # as a key press and the next are apart
        assert stage.cluster.done == ["stop 30"]
    assert not stage.cluster.has_idle_grace
    press(signal.SIGINT)

    await soon(living)
    assert stage.cluster.done == ["stop 30", "kill"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_an_int_ends_the_wait_before_it_kills(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """While the cluster serves on for load balancers, that is what a second signal asks for."""
    monkeypatch.setattr("aiocluster.program.runner._SAME_INT", 0.0)
    stage.cluster.may_stop.clear()
    life = stage.begin()
    await soon(stage.cluster.started.wait())
    press(first)
    await soon(stage.cluster.stopping.wait())
    stage.cluster.waiting = True

    press(signal.SIGINT)
    await turns_until(lambda: not stage.cluster.waiting)
    assert stage.cluster.done == ["stop 30", "end wait"]
    press(signal.SIGINT)

    await soon(life)
    assert stage.cluster.done == ["stop 30", "end wait", "kill"]


async def test_an_int_that_arrives_twice_is_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the terminal, and passed on by whatever started us; it may wait for a busy machine."""
    clock = Clock(monkeypatch)
    stage.cluster.may_stop.clear()
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGINT)
    await soon(stage.cluster.stopping.wait())
    clock.pause(5.0)
    press(signal.SIGINT)
    await turns()
    press(signal.SIGTERM)
    stage.cluster.may_stop.set()

    assert await soon(living) == 0
    assert stage.cluster.done == ["stop 30"]


@pytest.mark.parametrize(("cut", "code"), [([], 0), (["worker 1 (pid 1)"], 1)])
async def test_a_stop_before_it_is_up_ends_the_start(
    stage: Stage, cut: list[str], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing served; the log names what the stop waits for, and which worker was killed."""
    stage.cluster.may_start.clear()
    stage.cluster.cut = cut
    living = stage.begin()
    await turns_until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
    press(signal.SIGTERM)

    assert await soon(living) == code
    assert not stage.cluster.started.is_set()
    assert "stopping before anything serves: waiting up to 8 s for the import" in caplog.text
    assert [line for line in cut if line not in caplog.text] == []


@pytest.mark.parametrize("error", [BootError("no", "Traceback …"), ConfigError("port taken")])
async def test_a_start_that_fails_is_a_3(
    stage: Stage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """With the cause, and the traceback if there is one."""
    stage.cluster.start_error = error

    await stage.ends_with(3)

    assert f"could not start: {error}" in caplog.text
    assert ("Traceback …" in caplog.text) == isinstance(error, BootError)


# ---- reload


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize(
    "error", [None, BootError("ImportError: nope"), ClusterStopping("too late")]
)
async def test_a_signal_reloads(
    stage: Stage, number: int, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Why one fails the cluster has logged; here it ends nothing."""
    stage.cluster.reload_error = error
    life = stage.begin()
    await soon(stage.cluster.started.wait())
    await turns()
    press(number)
    await turns_until(lambda: "reload" in stage.cluster.done)
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert "Traceback" not in caplog.text


async def test_a_reload_asked_for_while_starting_follows_the_start(stage: Stage) -> None:
    """Once, however often it was asked for."""
    stage.cluster.may_start.clear()
    life = stage.begin()
    await turns()
    press(signal.SIGHUP)
    press(signal.SIGUSR2)
    await turns(20)
    assert stage.cluster.done == []
    stage.cluster.may_start.set()
    await turns_until(lambda: stage.cluster.done == ["reload"])
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert stage.cluster.done.count("reload") == 1


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGHUP, "reload"),
        (signal.SIGRTMIN, "upgrade"),
        (signal.SIGTTIN, "scale by +1"),
        (signal.SIGTTOU, "scale by -1"),
    ],
)
async def test_what_comes_too_late_is_told(
    stage: Stage, number: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever deploys sees that this program does not take it any more."""
    life = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGTERM)
    press(number)
    assert await soon(life) == 0
    assert stage.cluster.done == ["stop 30"]
    assert f"cannot {name} while stopping: the signal is ignored" in caplog.text


# ---- scale


@pytest.mark.parametrize(("number", "change"), [(signal.SIGTTIN, "+1"), (signal.SIGTTOU, "-1")])
@pytest.mark.parametrize(
    "error", [None, BootError("ImportError: nope"), ClusterStopping("too late")]
)
async def test_a_signal_changes_the_first_role(
    stage: Stage,
    number: int,
    change: str,
    error: Exception | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It cannot say which is meant; what fails the cluster has logged, and ends nothing."""
    roles = {"web": Role("pkg.module:serve"), "jobs": Role("pkg.module:work")}
    stage.cluster.plan = plan_from(None, roles, {"graceful_timeout": 30})
    stage.cluster.reload_error = error
    life = stage.begin()
    await soon(stage.cluster.announced.wait())
    press(number)
    await turns_until(lambda: bool(stage.cluster.done))
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert stage.cluster.done == [f"scale web {change}", "stop 30"]
    assert "Traceback" not in caplog.text


async def test_a_change_that_is_not_possible_is_told(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer than one worker, say: nobody else would hear of it."""
    stage.cluster.reload_error = ConfigError("scale: 0 workers are not possible")
    life = stage.begin()
    await soon(stage.cluster.announced.wait())
    press(signal.SIGTTOU)
    await turns_until(lambda: "scale: 0 workers are not possible" in caplog.text)
    press(signal.SIGTERM)

    assert await soon(life) == 0


async def test_each_change_asked_for_while_starting_follows_the_start(stage: Stage) -> None:
    """Unlike a reload: two more are not one more."""
    stage.cluster.may_start.clear()
    life = stage.begin()
    await turns()
    for number in (signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU):
        press(number)
        await turns(20)
    assert stage.cluster.done == []
    stage.cluster.may_start.set()
    await turns_until(lambda: len(stage.cluster.done) == 3)
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert stage.cluster.done[:3] == ["scale web +1", "scale web +1", "scale web -1"]


# ---- upgrade


async def test_rtmin_upgrades(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails ends nothing; one asked for while it starts follows the start."""
    stage.cluster.reload_error = BootError("SyntaxError: nope")
    stage.cluster.may_start.clear()
    life = stage.begin()
    await turns()
    press(signal.SIGRTMIN)
    await turns(20)
    assert stage.cluster.done == []
    stage.cluster.may_start.set()
    await turns_until(lambda: stage.cluster.done == ["upgrade"])
    press(signal.SIGRTMIN)
    await turns_until(lambda: stage.cluster.done == ["upgrade"] * 2)
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert "Traceback" not in caplog.text


async def test_an_heir_goes_on_in_silence(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it serves is known; events come when on_start has said what it wants to hear."""
    stage.cluster.is_upgrade = True
    announced_before_hook: list[bool] = []

    async def hook(cluster: Any) -> None:
        announced_before_hook.append(stage.cluster.announced.is_set())

    stage.hook = hook
    life = stage.begin()
    await soon(stage.cluster.announced.wait())
    press(signal.SIGTERM)

    assert await soon(life) == 0
    assert announced_before_hook == [False]
    assert "serving on" not in capsys.readouterr().out


async def test_an_heir_that_is_told_to_stop_takes_over_first(stage: Stage) -> None:
    """A start that is given up half way would cut what the workers do."""
    stage.cluster.is_upgrade = True
    stage.cluster.may_start.clear()
    life = stage.begin()
    await turns()
    press(signal.SIGTERM)
    await turns(20)
    assert stage.cluster.done == []
    stage.cluster.may_start.set()

    assert await soon(life) == 0
    assert stage.cluster.done == ["stop 30"]


# ---- on_start


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
async def test_what_on_start_raises_is_logged(
    stage: Stage, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """And ends nothing."""

    async def hook(cluster: object) -> None:
        asyncio.get_running_loop().call_soon(press, signal.SIGTERM)
        raise error

    stage.hook = hook

    await stage.ends_with(0)
    assert "on_start raised; the cluster goes on without it" in caplog.text


async def test_on_start_may_meet_the_stop(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """What it asked of a cluster that stops is no error to be shouted about."""

    async def hook(cluster: object) -> None:
        press(signal.SIGTERM)
        await stage.cluster.stopping.wait()
        stage.cluster.may_stop.set()
        raise ClusterStopping("cannot fork: the cluster is stopping")

    stage.hook = hook
    stage.cluster.may_stop.clear()

    await stage.ends_with(0)
    assert "on_start ends: cannot fork: the cluster is stopping" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (4, 4), ("no config", 1)])
async def test_exit_in_on_start_stops_the_program(stage: Stage, given: Any, code: int) -> None:
    """As gracefully as a TERM does, and with that code."""

    async def hook(cluster: object) -> None:
        raise SystemExit(given)

    stage.hook = hook

    await stage.ends_with(code)
    assert stage.cluster.done == ["stop 30"]


async def test_an_on_start_that_does_not_end_is_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every wait has an end."""
    monkeypatch.setattr("aiocluster.program.runner._HOOK_TIMEOUT", 0.01)
    release = asyncio.Event()

    async def hook(cluster: object) -> None:
        press(signal.SIGTERM)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    stage.hook = hook

    await stage.ends_with(0)
    assert "on_start does not end though it was cancelled" in caplog.text
    release.set()


# ---- the app exits


@pytest.mark.parametrize(
    ("code", "level", "said"),
    [
        (0, "INFO", "server.py exited with code 0 before it served"),
        (7, "ERROR", "could not start: server.py exited with code 7 before it served"),
    ],
)
async def test_an_app_that_exits_while_it_starts_gives_the_exit_code(
    stage: Stage, code: int, level: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line: an exit with 0 is none that failed."""
    told = f"server.py exited with code {code} before it served"
    stage.cluster.start_error = BootError(told, "", code)

    await stage.ends_with(code)

    assert (caplog.records[-1].levelname, caplog.records[-1].message) == (level, said)


@pytest.mark.parametrize(("cut", "code"), [([], 7), (["worker 1"], 1)])
async def test_workers_that_exit_with_a_code_of_their_own_give_the_exit_code(
    stage: Stage, cut: list[str], code: int
) -> None:
    """Unless something was cut, which counts more."""
    stage.cluster.exit_code, stage.cluster.cut = 7, cut
    living = stage.begin()
    await soon(stage.cluster.started.wait())
    press(signal.SIGTERM)

    assert await soon(living) == code


# ---- no worker is left


async def test_without_workers_the_program_ends(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """It could never serve again."""
    stage.cluster.empty.set()

    await stage.ends_with(1)

    assert "no worker is left, and with restart='always' none will come" in caplog.text


async def test_why_no_worker_of_any_role_will_come_is_told(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Each may have its own reason."""
    roles = {
        "web": Role("pkg.module:serve", restart="on_failure"),
        "jobs": Role("pkg.module:work", restart="never"),
    }
    stage.cluster.plan = plan_from(None, roles, {})
    stage.cluster.empty.set()

    await stage.ends_with(1)

    assert "left, and with restart='never' and 'on_failure' none will come" in caplog.text


async def test_when_all_jobs_have_finished_the_program_ends_well(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """They did all they had to."""
    stage.cluster.all_finished = True
    stage.cluster.empty.set()

    await stage.ends_with(0)

    assert "all jobs have finished" in caplog.text


async def test_without_workers_it_goes_on_while_on_start_does(stage: Stage) -> None:
    """Which may fork some."""
    forked = asyncio.Event()
    stage.cluster.empty.set()

    async def hook(cluster: FakeCluster) -> None:
        cluster.empty.clear()
        forked.set()

    stage.hook = hook
    living = stage.begin()
    await soon(forked.wait())
    press(signal.SIGTERM)

    assert await soon(living) == 0
