"""Real processes, real sockets, a real client: one behaviour a file."""
