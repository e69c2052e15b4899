"""An aiohttp app in a worker: counted, drained, its connections migrated.

service.py           starts the app, gives it connections, drains it
app_task.py          the one task of the app's factory and hooks
hooks.py             the hooks at the end, each for itself, and what their errors mean
application.py       what the user gave: an Application or a factory of one
runner.py            aiohttp's runner, with our server in it
metered_server.py    aiohttp's server and handlers, counting and timing
degraded_server.py   stands in for that on an aiohttp that is not known
aiohttp_internals.py what is used of aiohttp's private parts, by its versions
request_boundary.py  which connections are between two requests
migration.py         moves idle connections to another worker
websockets.py        WebSockets in a drain
closing_handshake.py ends a WebSocket's connection after both close frames
lingering_close.py   closes so that the client can read all
client_transport.py  the address of the client, as a proxy has named it
limiting.py          requests in flight at a time
"""
