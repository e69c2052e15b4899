"""The services: what a worker runs besides aiohttp. The runtime sees one interface, `Service`."""
