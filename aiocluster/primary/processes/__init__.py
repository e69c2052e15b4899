"""Operating-system processes: only this package starts zygotes, forks, signals and reaps."""
