"""Roles: named groups of workers, each with its own target, count and settings."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from aiocluster.config.run_app import RunAppCall
from aiocluster.config.script import Script
from aiocluster.config.settings import OF_THE_CLUSTER, Settings, refuse_unknown, settings_from
from aiocluster.config.special import SHARED
from aiocluster.errors import ConfigError

# The role of a cluster that was given one app.
ONLY_ROLE = "web"

# A role's name appears in environments, logs and labels of metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Role:
    """A role as the program gives it: `app` as for `run`, and the role's own settings.

        roles={"web": Role(make_app, bind=":8000"), "jobs": Role(work, workers=2)}

    A setting that is not given here is as given to the cluster; without `bind`, a role has no
    listener. ConfigError is raised for an invalid setting, or one of the whole cluster.
    """

    def __init__(self, app: object, **settings: Any) -> None:
        refuse_unknown(settings)
        if common := sorted(settings.keys() & OF_THE_CLUSTER):
            raise ConfigError(
                f"Role: {', '.join(common)} cannot be one role's own: give it to the cluster"
            )
        settings_from(settings)
        self.app = app
        self.settings = settings

    def __repr__(self) -> str:
        return f"<Role {self.app!r:.80} {self.settings}>"


class RoleSpec(Struct, frozen=True):
    """A role with all its settings; `given` names the settings that were given."""

    name: str
    app: object
    settings: Settings
    given: frozenset[str] = frozenset()
    # True if given among `roles`, where every coroutine function of one argument is a job.
    is_named: bool = False

    def settings_with(self, call: RunAppCall | None) -> Settings:
        """Return the settings; if the code has called `run_app`, its arguments are defaults.

        Raise ConfigError if the settings make no sense together.
        """
        if call is None:
            return self.settings
        defaults = {name: value for name, value in call.settings.items() if name not in self.given}
        checked = settings_from(defaults)
        changes = {name: getattr(checked, name) for name in defaults}
        settings = msgspec.structs.replace(self.settings, **changes)
        check_together(settings)
        return settings


class Plan(Struct, frozen=True):
    """The plan of a cluster: the settings of the whole cluster, and its roles by name."""

    settings: Settings
    roles: Mapping[str, RoleSpec]

    @property
    def graceful_timeout(self) -> float:
        """The longest `graceful_timeout` of all roles, in seconds."""
        return max(role.settings.graceful_timeout for role in self.roles.values())


def plan_from(app: object, roles: object, given: Mapping[str, Any]) -> Plan:
    """Return the plan of a cluster with one app, or with roles; `given` are settings.

    Raise ConfigError if both or neither are given, or a value is invalid.
    """
    settings = settings_from(given)
    if roles is None:
        if app is None:
            raise ConfigError("give an app to serve, or roles={name: Role(app, ...)}")
        if "bind" in given or not isinstance(app, Script):  # else the script gives the address
            check_together(settings)
        return Plan(settings, {ONLY_ROLE: RoleSpec(ONLY_ROLE, app, settings, frozenset(given))})
    if app is not None:
        raise ConfigError("give either one app or roles, not both: the app may be one of the roles")
    if "bind" in given:
        raise ConfigError("bind: with roles, give a bind to each role that listens")
    return Plan(settings, {name: _spec(name, role, given) for name, role in _pairs(roles)})


def _pairs(roles: object) -> list[tuple[str, Role]]:
    if not isinstance(roles, Mapping) or not roles:
        raise ConfigError(
            f"roles: {roles!r:.80} is not allowed; give a dict of one or more,"
            " such as {'web': Role(make_app, bind=':8000')}"
        )
    for name, role in roles.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"roles: {name!r} is no name; give letters, digits, '_', '-' and '.', at most 64"
            )
        if not isinstance(role, Role):
            raise ConfigError(f"roles: {name!r}: {role!r:.80} is not a Role(app, ...)")
    return [*roles.items()]


def _spec(name: str, role: Role, given: Mapping[str, Any]) -> RoleSpec:
    settings = settings_from({**given, **role.settings})
    if "bind" not in role.settings:
        settings = msgspec.structs.replace(settings, bind=())
    try:
        check_together(settings)
    except ConfigError as error:
        raise ConfigError(f"role {name!r}: {error}") from None
    return RoleSpec(
        name, role.app, settings, frozenset(given.keys() | role.settings.keys()), is_named=True
    )


def check_together(settings: Settings) -> None:
    """Raise ConfigError if settings that are each valid contradict one another."""
    policies = settings.policy if isinstance(settings.policy, Mapping) else {"": settings.policy}
    addresses = [*map(str, settings.bind)]
    if strangers := sorted(policies.keys() - {"", *addresses}):
        raise ConfigError(
            f"policy: {', '.join(strangers)} is not among the addresses of bind"
            f" ({', '.join(addresses) or 'none'})"
        )
    if settings.proxy_protocol and not settings.trusted_proxies:
        raise ConfigError("proxy_protocol: give the networks of your proxies as trusted_proxies")
    if settings.trusted_proxies and not settings.proxy_protocol:
        raise ConfigError("trusted_proxies: without proxy_protocol no PROXY headers are read")
    is_shared = any(isinstance(policy, str) and policy == SHARED for policy in policies.values())
    if is_shared and (wrong := [name for name in _AT_THE_DOOR if _is_given(settings, name)]):
        raise ConfigError(
            f"{', '.join(wrong)}: cannot be used with the policy 'shared', where no connection"
            " passes the primary"
        )


# The settings for what the primary does with a connection before a worker gets it.
_AT_THE_DOOR = ("proxy_protocol", "max_connections_total", "when_full")


def _is_given(settings: Settings, name: str) -> bool:
    return bool(getattr(settings, name) != getattr(Settings(), name))
