"""What the user's code sees of its worker: the context, its servers, messages, readiness."""
