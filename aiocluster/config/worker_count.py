"""What `workers` means on this machine, and how many are too many for it."""

from aiocluster.config.settings import Workers

# More workers than this for each CPU, and they mostly wait for each other.
MANY_WORKERS_PER_CPU = 4


def worker_count(workers: Workers, cpus: int) -> int:
    """Return how many workers `workers` means where `cpus` CPUs may be used."""
    match workers:
        case "auto" | "cpu":
            return cpus
        case "io":
            return 2 * cpus
        case count:
            return count


def too_many_workers_warning(count: int, cpus: int) -> str | None:
    """Return what `count` workers cost on `cpus` CPUs when that is far too many, else None."""
    if count <= MANY_WORKERS_PER_CPU * cpus:
        return None
    return (
        f"{count} workers on {cpus} CPU{'' if cpus == 1 else 's'} are more than "
        f"{MANY_WORKERS_PER_CPU} for each CPU: every further worker takes its own memory, and "
        "they only take turns, so context switches and the p99 latency go up, not the throughput"
    )
