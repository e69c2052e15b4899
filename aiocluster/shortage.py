"""What the kernel refuses for want of something, in one line that names the limit to look at."""

import errno

_LIMITS = {
    errno.EAGAIN: "the limit of processes: ulimit -u, the container's pids.max, systemd's TasksMax",
    errno.EMFILE: "the limit of open files: ulimit -n, systemd's LimitNOFILE",
    errno.ENFILE: "the whole system's limit of open files: sysctl fs.file-max",
    errno.ENOMEM: "memory: the machine's, or the container's memory.max",
    errno.ENOBUFS: "memory: the machine's, or the container's memory.max",
    errno.EPERM: "what the container or a sandbox (seccomp) forbids",
    errno.ENOSYS: "what this kernel, or a sandbox (seccomp), does not have",
}

# What is short may be there again in a moment.
_PASSES = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


def is_shortage(error: OSError) -> bool:
    """Is it for want of processes, descriptors or memory?"""
    return error.errno in _PASSES


def shortage(error: OSError, what: str) -> str:
    """Say that the kernel refused `what`, why, and which limit to look at."""
    limit = _LIMITS.get(error.errno or 0)
    return f"the kernel refused {what}: {error.strerror or error}" + (
        f"; look at {limit}" if limit else ""
    )
