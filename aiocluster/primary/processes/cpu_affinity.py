"""The CPUs that the workers of each role are pinned to: one for each slot.

CPUs are assigned once, when the roles begin. So a worker that replaces another has the same CPU,
also after an upgrade. The CPUs left over go to workers that scaling adds; a worker for which none
is left runs on any CPU.
"""

from collections.abc import Collection, Mapping, Sequence


def dealt(
    counts: Mapping[str, int], pinned: Collection[str], cpus: Sequence[int]
) -> dict[str, list[int]]:
    """Return the CPUs of each role in `pinned`; none for any if there are too few.

    `counts` are the numbers of workers of all roles: workers that are not pinned need CPUs, too.
    """
    if not pinned or sum(counts.values()) > len(cpus):
        return {}
    left = iter(cpus)
    own = {role: [next(left) for _ in range(count)] for role, count in counts.items()}
    rest = [*left]
    turns = [role for role in counts if role in pinned]
    return {role: own[role] + rest[nth :: len(turns)] for nth, role in enumerate(turns)}
