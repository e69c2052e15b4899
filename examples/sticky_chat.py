"""A chat whose rooms live in the memory of workers: all who open one room meet in one worker.

python examples/sticky_chat.py        # then open http://127.0.0.1:8000/rooms/tea, twice

`sticky:path:2` chooses the worker by the second segment of the path, so no message has to leave
its process. A reload closes the WebSockets with 1012; the page comes back, to the same slot.
"""

from collections import defaultdict
from contextlib import suppress

from aiohttp import web

import aiocluster

PAGE = """<!doctype html><input autofocus placeholder="say something"><pre></pre><script>
const input = document.querySelector("input"), log = document.querySelector("pre")
function connect() {
  const socket = new WebSocket(location.href.replace("http", "ws"))
  socket.onmessage = event => log.append(event.data + "\\n")
  socket.onclose = () => setTimeout(connect, 500)
  input.onchange = () => { socket.send(input.value); input.value = "" }
}
connect()
</script>"""

rooms = defaultdict[str, set[web.WebSocketResponse]](set)


async def enter(request: web.Request) -> web.StreamResponse:
    socket, name = web.WebSocketResponse(), request.match_info["room"]
    if not socket.can_prepare(request):
        return web.Response(text=PAGE, content_type="text/html")
    await socket.prepare(request)
    room, worker = rooms[name], aiocluster.current_worker()
    room.add(socket)
    try:
        await socket.send_str(f"{len(room)} here, in {worker}")
        async for message in socket:
            for member in [*room]:
                with suppress(ConnectionError):  # who is just leaving
                    await member.send_str(message.data)
    finally:
        room.discard(socket)
        if not room:
            del rooms[name]
    return socket


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/rooms/{room}", enter)
    return app


if __name__ == "__main__":
    aiocluster.run(make_app, workers=4, bind="127.0.0.1:8000", policy="sticky:path:2")
