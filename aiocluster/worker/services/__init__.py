"""What a worker runs. Each kind of app has its service; all look alike to the runtime."""
