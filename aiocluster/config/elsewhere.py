"""Systems other than Linux, where the program serves in one process.

The handoff of connections and the replacement of workers need parts of Linux. A laptop needs
neither, so aiohttp alone serves the app there, and one warning says what that means.
"""

import sys
from collections.abc import Mapping

from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.config.settings import Settings

_NAMES = {"darwin": "macOS", "win32": "Windows"}

# The settings that also hold in one process: most of them are aiohttp's own.
KEPT = frozenset(
    {
        "access_log",
        "access_log_format",
        "auto_decompress",
        "backlog",
        "bind",
        "boot_timeout",
        "chdir",
        "env",
        "graceful_timeout",
        "handler_cancellation",
        "keepalive_timeout",
        "lingering_time",
        "log_level",
        "max_field_size",
        "max_headers",
        "max_line_size",
        "read_bufsize",
        "ready",
        "tcp_keepalive",
    }
)


def on_linux() -> bool:
    """Return True if this system is Linux."""
    return sys.platform == "linux"


def system_name() -> str:
    """Return the name of this system, as its users know it."""
    return _NAMES.get(sys.platform, sys.platform)


def one_process_warning(system: str, plan: Plan) -> str:
    """Return the warning that `plan` is served in one process, with what has no effect there."""
    parts = [
        f"{system} is not Linux: everything runs in this one process, the app by aiohttp's own"
        " runner. Workers, reloads, supervision, metrics and upgrades exist on Linux only"
    ]
    if len(plan.roles) > 1:
        parts.append(f"the roles {', '.join(plan.roles)} share this process and its environment")
    if ignored := ignored_settings(plan):
        given = ", ".join(f"{name}={value!r:.80}" for name, value in ignored.items())
        parts.append(f"without effect here: {given}")
    return "; ".join(parts)


def ignored_settings(plan: Plan) -> Mapping[str, object]:
    """Return the settings that were given and have no effect in one process, with their values.

    A setting that was given its default is left out. With several roles a name is role.setting.
    """
    several = len(plan.roles) > 1
    return {
        f"{spec.name}.{name}" if several else name: value
        for spec in plan.roles.values()
        for name, value in _given(spec)
        if name not in KEPT
    }


def _given(spec: RoleSpec) -> list[tuple[str, object]]:
    default = Settings()
    values = ((name, getattr(spec.settings, name)) for name in Settings.__struct_fields__)
    return [(name, value) for name, value in values if value != getattr(default, name)]
