"""Which CPUs the workers of each role are pinned to, one each, by slot.

CPUs are dealt out once, as roles begin: so that whoever comes in the place of another has the
same one, and so has whoever is there after an upgrade. What is left after that is for those whom
a scaling adds; whoever finds none left runs on any.
"""

from collections.abc import Collection, Mapping, Sequence


def dealt(
    counts: Mapping[str, int], pinned: Collection[str], cpus: Sequence[int]
) -> dict[str, list[int]]:
    """Return the CPUs of each of the roles `pinned`; empty where there are too few.

    `counts` are the workers of all roles: those that are not pinned run somewhere, too.
    """
    if not pinned or sum(counts.values()) > len(cpus):
        return {}
    left = iter(cpus)
    own = {role: [next(left) for _ in range(count)] for role, count in counts.items()}
    rest = [*left]
    turns = [role for role in counts if role in pinned]
    return {role: own[role] + rest[nth :: len(turns)] for nth, role in enumerate(turns)}
