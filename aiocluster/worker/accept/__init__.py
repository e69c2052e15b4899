"""How connections get into a worker: by the handoff, or accepted from a shared listener."""
