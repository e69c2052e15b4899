"""How many descriptors this process and its children may have open."""


def fd_limit() -> int:
    """Return how many this process may have."""
    import resource  # which Windows does not have

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_fd_limit() -> None:
    """Raise the soft limit of open files to the hard one; every child inherits it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
