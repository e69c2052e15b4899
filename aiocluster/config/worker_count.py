"""The number of workers that `workers` means on this machine, and the warning for too many."""

from aiocluster.config.settings import Workers

# With more workers than this for each CPU, workers mostly wait for each other.
MANY_WORKERS_PER_CPU = 4


def worker_count(workers: Workers, cpus: int) -> int:
    """Return how many workers `workers` means if `cpus` CPUs may be used."""
    match workers:
        case "auto" | "cpu":
            return cpus
        case "io":
            return 2 * cpus
        case count:
            return count


def too_many_workers_warning(count: int, cpus: int) -> str | None:
    """Return a warning if `count` workers are far too many for `cpus` CPUs, else None."""
    if count <= MANY_WORKERS_PER_CPU * cpus:
        return None
    return (
        f"{count} workers on {cpus} CPU{'' if cpus == 1 else 's'} are more than "
        f"{MANY_WORKERS_PER_CPU} for each CPU: further workers need memory of their own and only "
        "take turns, so context switches and the p99 latency go up, not the throughput"
    )
