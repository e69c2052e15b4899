"""Several roles under one primary: what happens in one is not felt in another."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiocluster import (
    BootError,
    Cluster,
    ConfigError,
    Reloaded,
    Role,
    RoleDegraded,
    Snapshot,
    WorkerExited,
    WorkerHandle,
    WorkerMessage,
)
from tests.support.cluster import (
    HTTP_APP,
    SILENT_APP,
    Client,
    Heard,
    ask,
    kill,
    serving_roles,
    url_of,
    who_answers,
)
from tests.support.program import PATIENCE, until
from tests.support.upgrading import APP, Upgradable
from tests.support.wire import Wire

CRASHING_APP = "tests.support.apps:make_app_unless_told_to_crash"
APP_THAT_RAISES = "tests.support.apps:make_app_that_raises"


@asynccontextmanager
async def web_and_admin(
    web: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Cluster, Heard]]:
    """Run two workers of one role and one of another, each behind its own address."""
    roles = {
        "web": Role(CRASHING_APP, workers=2, bind="127.0.0.1:0", **(web or {})),
        "admin": Role(HTTP_APP, workers=1, bind="127.0.0.1:0"),
    }
    async with serving_roles(roles, **settings) as both:
        yield both


def of_role(cluster: Cluster, role: str) -> list[WorkerHandle]:
    return [worker for worker in cluster.workers.values() if worker.role == role]


def web_url(cluster: Cluster) -> str:
    return url_of(cluster, "")


def admin_url(cluster: Cluster) -> str:
    return url_of(cluster, "", nth=2)


async def test_each_role_serves_its_own_app_with_its_own_workers() -> None:
    """At its own address; one that has none just runs."""
    roles = {
        "web": Role(HTTP_APP, workers=2, bind="127.0.0.1:0"),
        "silent": Role(SILENT_APP, workers=1, bind="127.0.0.1:0"),
        "idle": Role(HTTP_APP),
    }
    async with serving_roles(roles, workers=3) as (cluster, _):
        counts = {role: len(of_role(cluster, role)) for role in roles}
        assert counts == {"web": 2, "silent": 1, "idle": 3}
        assert len(cluster.addresses) == 2

        web = {worker.id for worker in of_role(cluster, "web")}
        assert {(await who_answers(web_url(cluster)))["id"] for _ in range(8)} == web
        assert await ask(web_url(cluster), "/env/AIOCLUSTER_ROLE") == "web"
        assert "Not Found" in await ask(admin_url(cluster), "/who")
        (silent,) = of_role(cluster, "silent")
        await silent.send("hello")
        assert json.loads(await ask(admin_url(cluster), "/read/1")) == ["hello"]


async def test_a_worker_that_dies_is_replaced_in_its_role() -> None:
    """The other role's workers, and their connections, go on."""
    async with web_and_admin() as (cluster, heard), await Client.connect(admin_url(cluster)) as one:
        (admin,) = of_role(cluster, "admin")
        victim = of_role(cluster, "web")[0]
        before = json.loads(await one.get("/who"))
        kill(victim.pid)
        successor = await heard.replacement_of(victim)

        assert (successor.role, successor.slot) == ("web", victim.slot)
        assert json.loads(await one.get("/who")) == before
        assert of_role(cluster, "admin") == [admin]


async def test_a_crash_loop_in_one_role_is_not_felt_in_another() -> None:
    """Only that one is degraded, and the death of another role's worker is no part of it."""
    limits = {"max_failures": 1, "failure_half_life": 1e6, "max_restart_delay": 3600}
    async with web_and_admin(limits) as (cluster, heard):
        await cluster.fork(env={"CRASH": "4"}, role="web")
        degraded = await heard.next(RoleDegraded)
        (admin,) = of_role(cluster, "admin")
        exits = {event.worker.role for event in heard.of_kind(WorkerExited)}
        answer = await who_answers(admin_url(cluster))

        assert (degraded.role, exits) == ("web", {"web"})
        assert answer["id"] == admin.id
        kill(admin.pid)
        successor = await heard.replacement_of(admin)
        assert (await who_answers(admin_url(cluster)))["id"] == successor.id
        assert [event.role for event in heard.of_kind(RoleDegraded)] == ["web"]


async def test_a_worker_is_added_to_the_role_that_is_asked_for() -> None:
    """Where there are several it must be said which."""
    async with web_and_admin() as (cluster, _):
        with pytest.raises(ConfigError, match="fork: give a role; the roles are web, admin"):
            await cluster.fork()
        worker = await cluster.fork(role="admin", env={"WHICH": "second"})
        await worker.settled

        assert (worker.role, worker.slot) == ("admin", 1)
        assert len(of_role(cluster, "web")) == 2
        told = {await ask(admin_url(cluster), "/env/WHICH") for _ in range(4)}
        assert told == {"second", "not set"}


async def test_a_reload_of_one_role_changes_only_its_generation() -> None:
    """The others keep their workers; a reload of all reloads each."""
    async with web_and_admin(min_uptime=0.1) as (cluster, heard):
        (admin,), old = of_role(cluster, "admin"), of_role(cluster, "web")
        await cluster.reload("web")

        assert heard.of_kind(Reloaded) == [Reloaded(2, "web")]
        assert [worker.generation for worker in of_role(cluster, "web")] == [2, 2]
        assert not {worker.id for worker in old} & cluster.workers.keys()
        assert of_role(cluster, "admin") == [admin]
        assert (await who_answers(admin_url(cluster)))["id"] == admin.id

        await cluster.reload()
        assert heard.of_kind(Reloaded)[1:] == [Reloaded(3, "web"), Reloaded(2, "admin")]
        assert (await who_answers(admin_url(cluster)))["id"] != admin.id


async def snapshot_of(cluster: Cluster, count: int) -> Snapshot:
    """Return the first snapshot in which so many workers are ready."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in cluster.subscribe(0.05):
            if len(snapshot.workers) == count:
                return snapshot
    raise AssertionError


async def test_a_snapshot_tells_each_worker_s_role() -> None:
    """Of all roles there is one total."""
    async with web_and_admin() as (cluster, _):
        snapshot = await snapshot_of(cluster, 3)
        roles = {worker.id: worker.role for worker in cluster.workers.values()}

    assert {id_: worker.role for id_, worker in snapshot.workers.items()} == roles
    assert sorted(roles.values()) == ["admin", "web", "web"]


async def holding(heard: Heard, role: str) -> WorkerHandle:
    """Return the worker of this role that holds a request, once one does."""
    event = await heard.next(WorkerMessage, lambda event: event.worker.role == role)
    assert isinstance(event.worker, WorkerHandle)
    return event.worker


async def test_each_role_has_its_own_time_to_stop() -> None:
    """What one must cut another still finishes."""
    async with web_and_admin({"graceful_timeout": 0.2}, graceful_timeout=3600) as (cluster, heard):
        (admin,) = of_role(cluster, "admin")
        async with (
            await Client.connect(web_url(cluster)) as hasty,
            await Client.connect(admin_url(cluster)) as patient,
        ):
            hasty.send("/hold")
            patient.send("/hold")
            cut = await holding(heard, "web")
            await holding(heard, "admin")
            stopping = asyncio.create_task(cluster.stop())
            assert (await heard.exit_of(cut)).reason == "stop"
            assert not stopping.done()
            kill(admin.pid, signal.SIGUSR1)
            assert await patient.answer() == "released"
        async with asyncio.timeout(PATIENCE):
            assert await stopping == [str(cut)]


async def test_a_role_that_does_not_come_up_ends_the_start() -> None:
    """Named, and nothing is left of the others."""
    before = set(psutil.Process().children(recursive=True))
    roles = {"web": Role(HTTP_APP, bind="127.0.0.1:0"), "bad": Role(APP_THAT_RAISES)}

    with pytest.raises(BootError, match="role bad: RuntimeError: no app today"):
        await Cluster(roles=roles, workers=1).start()

    assert set(psutil.Process().children(recursive=True)) <= before


# ---- as a program

ROLES = (
    'roles={"web": aiocluster.Role("app:make_app", bind="127.0.0.1:0", workers=2),'
    ' "admin": aiocluster.Role("admin:make_app", bind="127.0.0.1:0", workers=1)}'
)


class RolesProgram(Upgradable):
    """One of two roles, each with an app and a zygote of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.write("admin.py", APP)
        self.settings = {"min_uptime": 0.1}
        self.app = ROLES
        self.release()

    def workers(self) -> list[psutil.Process]:
        """Return those of both roles."""
        zygotes = psutil.Process(self.pid).children()
        return [worker for zygote in zygotes for worker in zygote.children()]

    async def ask_both(self) -> list[str]:
        """Return what each role answers."""
        answers = []
        for url in await self.urls():
            async with Wire(url) as wire:
                answers.append((await wire.get()).body.decode())
        return answers


async def test_a_signal_reloads_all_roles(tmp_path: Path) -> None:
    """Each imports its own code anew."""
    async with RolesProgram(tmp_path) as program:
        before = await program.ask_both()
        assert {int(pid) for pid in before} <= program.pids()
        for name in ("app", "admin"):
            program.write(f"{name}.py", APP.replace("str(os.getpid())", f'"new {name}"'))
        program.send_signal(signal.SIGHUP)
        await until(lambda: program.told("events").count(["Reloaded"]) == 2, "both reloaded")

        assert await program.ask_both() == ["new app", "new admin"]
        await until(lambda: len(program.descendants()) == 5, "the old ones are gone")
        assert await program.stop() == 0
        assert program.left_behind() == []
        assert "Traceback" not in await program.all_output()


async def test_an_upgrade_keeps_all_roles(tmp_path: Path) -> None:
    """Addresses and workers are the same; afterwards both are looked after as before."""
    async with RolesProgram(tmp_path) as program:
        (web_url, admin_url), before = await program.urls(), program.pids()
        async with Wire(web_url) as web, Wire(admin_url) as admin_wire:
            await program.upgrade()
            answers = {int((await wire.get()).body) for wire in (web, admin_wire)}

        assert len(before) == 3
        assert program.pids() == before
        assert answers <= before
        _, admin = await program.ask_both()
        psutil.Process(int(admin)).kill()
        await until(lambda: len(program.pids() - {int(admin)}) == 3, "a replacement")
        program.write("admin.py", APP.replace("str(os.getpid())", '"new admin"'))
        program.send_signal(signal.SIGHUP)
        await until(lambda: program.told("events").count(["Reloaded"]) == 2, "both reloaded")
        assert (await program.ask_both())[1] == "new admin"
        assert await program.stop() == 0
        assert program.left_behind() == []
        assert "Traceback" not in await program.all_output()


async def test_an_upgrade_to_other_roles_is_refused(tmp_path: Path) -> None:
    """Nobody would know what to do with the workers that are there."""
    async with RolesProgram(tmp_path) as program:
        before = await program.ask_both()
        program.app = ROLES.replace("admin", "mail", 1)
        program.release()

        why = await program.fails_to_upgrade()

        assert "roles are mail, web and not admin, web: to change them takes a stop" in why
        assert {int(pid) for pid in [*before, *await program.ask_both()]} <= program.pids()
        assert await program.stop() == 0
