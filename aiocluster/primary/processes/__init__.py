"""Operating-system processes: start zygotes, fork, signal and reap. No other package does."""
