"""An aiohttp app in a worker: counted, drained, its connections migrated.

service.py      starts the app, gives it connections, drains it; start reading here
application.py, app_task.py, hooks.py, runner.py             the user's app and its hooks
metered_server.py, degraded_server.py, aiohttp_internals.py  aiohttp's server, counted and timed
request_boundary.py, migration.py, idle_closing.py           connections between two requests
websockets.py, closing_handshake.py, lingering_close.py      how connections end
client_transport.py, limiting.py, handler_options.py         client address, limits, options
"""
