"""aiohttp's own server tests, run with our classes in the place of its own."""
