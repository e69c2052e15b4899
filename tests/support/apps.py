"""The apps that these tests serve: what a request or a message asks, the worker does."""

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

import aiocluster

# A worker that is to be blocked is blocked for good.
FOR_EVER = 1e6

routes = web.RouteTableDef()

hogged: list[int] = []

RELEASED = web.AppKey("RELEASED", asyncio.Event)


def me() -> aiocluster.WorkerContext:
    worker = aiocluster.current_worker()
    assert worker is not None
    return worker


@routes.get("/who")
async def who(request: web.Request) -> web.Response:
    worker = me()
    return web.json_response({"id": worker.id, "slot": worker.slot, "pid": os.getpid()})


@routes.get("/env/{name}")
async def env(request: web.Request) -> web.Response:
    return web.Response(text=os.environ.get(request.match_info["name"], "not set"))


@routes.get("/status/{status}")
async def status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["status"]))


@routes.post("/length")
async def length(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


@routes.get("/large/{size}")
async def large(request: web.Request) -> web.Response:
    return web.Response(body=b"x" * int(request.match_info["size"]))


@routes.get("/wait/{milliseconds}")
async def wait(request: web.Request) -> web.Response:
    await asyncio.sleep(int(request.match_info["milliseconds"]) / 1000)
    return web.Response(text="waited")


@routes.get("/hold")
async def hold(request: web.Request) -> web.Response:
    """Answer only when /release was asked of this worker, or SIGUSR1 reached it."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, request.app[RELEASED].set)
    await me().send("holding")
    await request.app[RELEASED].wait()
    return web.Response(text="released")


@routes.get("/release")
async def release(request: web.Request) -> web.Response:
    request.app[RELEASED].set()
    return web.Response(text="ok")


@routes.get("/files")
async def files(request: web.Request) -> web.Response:
    return web.json_response(resource.getrlimit(resource.RLIMIT_NOFILE))


@routes.get("/tell/{text}")
async def tell(request: web.Request) -> web.Response:
    await me().send(request.match_info["text"])
    return web.Response(text="told")


# ---- ways to end


@routes.get("/end/kill")
async def end_by_kill(request: web.Request) -> web.Response:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@routes.get("/end/fault")
async def end_by_fault(request: web.Request) -> web.Response:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


@routes.get("/end/_exit/{code}")
async def end_by_exit(request: web.Request) -> web.Response:
    os._exit(int(request.match_info["code"]))


@routes.get("/end/exit/{code}")
async def end_by_sys_exit(request: web.Request) -> web.Response:
    sys.exit(int(request.match_info["code"]))


@routes.get("/end/exit_after")
async def end_after_answer(request: web.Request) -> web.Response:
    asyncio.get_running_loop().call_soon(sys.exit, 9)
    return web.Response(text="bye")


@routes.get("/block")
async def block(request: web.Request) -> web.Response:
    _answer_past_the_loop(request)
    time.sleep(FOR_EVER)  # noqa: ASYNC251, TID251 (to block the loop is what it is for)
    raise AssertionError


@routes.get("/spin")
async def spin(request: web.Request) -> web.Response:
    _answer_past_the_loop(request)
    while True:
        pass


@routes.get("/grab")
async def grab(request: web.Request) -> web.Response:
    """Block in C code that keeps the interpreter to itself."""
    _answer_past_the_loop(request)
    return web.json_response(1 in itertools.repeat(0))


@routes.get("/block_until")
async def block_until(request: web.Request) -> web.Response:
    """Block until the file is there; the answer came before."""
    _answer_past_the_loop(request)
    _sleep_until_there(request.query["path"])
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _sleep_until_there(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)  # noqa: TID251 (to block the loop is what it is for)


@routes.get("/hog")
async def hog(request: web.Request) -> web.Response:
    """Open all the files there may be, until /unhog; answer how many."""
    with contextlib.suppress(OSError):
        while True:
            hogged.append(os.open(os.devnull, os.O_RDONLY))
    return web.json_response({"id": me().id, "files": len(hogged)})


@routes.get("/unhog")
async def unhog(request: web.Request) -> web.Response:
    while hogged:
        os.close(hogged.pop())
    return web.Response(text="closed")


def _answer_past_the_loop(request: web.Request) -> None:
    """Say who we are when it is sure that the loop will not turn again."""
    assert request.transport is not None
    body = str(me().id).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    os.write(request.transport.get_extra_info("socket").fileno(), head + body)


@routes.get("/orphan")
async def orphan(request: web.Request) -> web.Response:
    """Start a process whose parent is gone at once; answer its pid."""
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 1000000 >/dev/null 2>&1 & echo $!", stdout=asyncio.subprocess.PIPE
    )
    assert shell.stdout is not None
    # Not communicate(): uvloop lets the orphan inherit what that waits for.
    return web.Response(text=(await shell.stdout.readline()).decode().strip())


@routes.get("/child")
async def child(request: web.Request) -> web.Response:
    """Start a process and leave it to itself; answer its pid."""
    process = await asyncio.create_subprocess_exec("sleep", "1000000")
    return web.Response(text=str(process.pid))


def make_app() -> web.Application:
    """Does what a request asks."""
    app = web.Application()
    app[RELEASED] = asyncio.Event()
    app.add_routes(routes)
    return app


def make_app_unless_told_to_crash() -> web.Application:
    """Like make_app; where CRASH is in the environment the worker dies of it at its start."""
    if "CRASH" in os.environ:
        os._exit(int(os.environ["CRASH"]))
    if "RAISE" in os.environ:
        raise RuntimeError("told to raise")
    return make_app()


def make_app_that_raises() -> web.Application:
    raise RuntimeError("no app today")


def make_app_slowly() -> web.Application:
    """Its worker's loop does not turn for a second while it starts."""
    time.sleep(1.0)  # noqa: TID251 (as an import of much does)
    return make_app()


async def make_app_that_never_comes() -> web.Application:
    await asyncio.sleep(FOR_EVER)
    raise AssertionError


# ---- apps that are told what to do by messages


def make_silent_app() -> web.Application:
    """Reads messages only as /read asks for them, and answers what it read."""
    app = web.Application()
    messages = me().messages()

    async def read(request: web.Request) -> web.Response:
        count = int(request.match_info["count"])
        return web.json_response([await anext(messages) for _ in range(count)])

    async def read_numbers(request: web.Request) -> web.Response:
        count = int(request.match_info["count"])
        return web.json_response([(await anext(messages))[0] for _ in range(count)])

    app.router.add_get("/read/{count}", read)
    app.router.add_get("/read_numbers/{count}", read_numbers)
    return app


def make_obedient_app() -> web.Application:
    """Does what each message says: a list of a command and its arguments."""
    app = make_app()
    app.cleanup_ctx.append(_obey_messages)
    return app


async def _obey_messages(app: web.Application) -> AsyncIterator[None]:
    obeying = asyncio.create_task(_obey(app))
    yield
    obeying.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await obeying


async def _obey(app: web.Application) -> None:
    async for command, *arguments in me().messages():
        if command == "release":
            app[RELEASED].set()
        else:
            await COMMANDS[command](*arguments)


async def _echo(message: Any) -> None:
    await me().send(message)


async def _send_many(count: int) -> None:
    for number in range(count):
        await me().send(number)


async def _send_many_and_exit(count: int, code: int) -> None:
    await _send_many(count)
    for _ in range(3):  # uvloop writes at the end of its turn
        await asyncio.sleep(0)
    os._exit(code)


async def _send_bytes(size: int) -> None:
    await me().send(bytes(size))


async def _send_what_cannot_be_sent() -> None:
    refused: dict[str, Any] = {"users": [{"name": "a"}, {"name": object()}]}
    try:
        await me().send(refused)
    except aiocluster.MessageError as error:
        await me().send(["refused", str(error)])


async def _tell_env(name: str) -> None:
    await me().send(["env", name, os.environ.get(name)])


async def _tell_folder() -> None:
    await me().send(os.getcwd())


async def _exit(code: int) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, code)


async def _exit_at_once(code: int) -> None:
    os._exit(code)


async def _drain() -> None:
    me().drain()


async def _drain_then_exit(code: int) -> None:
    me().drain()
    asyncio.get_running_loop().call_soon(sys.exit, code)


async def _raise() -> None:
    def fail() -> None:
        raise RuntimeError("told to raise")

    asyncio.get_running_loop().call_soon(fail)
    await me().send("raised")


async def _spin() -> None:
    # By the kernel at once, so that the message is out before the loop stops turning.
    os.write(1, b"spinning\n")
    while True:
        pass


async def _subscribe(interval: float, count: int) -> None:
    snapshots = me().subscribe(interval)
    for _ in range(count):
        snapshot = await anext(snapshots)
        await me().send(
            [
                "snapshot",
                snapshot.missed,
                snapshot.interval,
                sorted(snapshot.workers),
                snapshot.total.requests_total,
                snapshot.total.rss_bytes,
            ]
        )


async def _subscribe_badly() -> None:
    try:
        me().subscribe(0)
    except aiocluster.ConfigError as error:
        await me().send(["refused", str(error)])


COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "echo": _echo,
    "send_many": _send_many,
    "send_many_and_exit": _send_many_and_exit,
    "send_bytes": _send_bytes,
    "send_what_cannot_be_sent": _send_what_cannot_be_sent,
    "tell_env": _tell_env,
    "tell_folder": _tell_folder,
    "exit": _exit,
    "exit_at_once": _exit_at_once,
    "drain": _drain,
    "drain_then_exit": _drain_then_exit,
    "raise": _raise,
    "spin": _spin,
    "subscribe": _subscribe,
    "subscribe_badly": _subscribe_badly,
}
