"""What is given as roles, and what they become."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from aiocluster.config.addresses import Address
from aiocluster.config.roles import ONLY_ROLE, Plan, Role, plan_from
from aiocluster.config.run_app import RunAppCall
from aiocluster.config.script import Script
from aiocluster.config.settings import OF_THE_CLUSTER, settings_from
from aiocluster.errors import ConfigError


def factory() -> web.Application:
    return web.Application()


class ByMoon:
    """A policy that would go by what there is not."""

    affinity_by = "moon"

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[0]


def plan_of(**roles: Role) -> Plan:
    return plan_from(None, roles, {})


def test_one_app_is_one_role() -> None:
    """With all that was given, and the default address."""
    plan = plan_from(factory, None, {"workers": 3})

    assert [*plan.roles] == [ONLY_ROLE]
    (role,) = plan.roles.values()
    assert (role.name, role.app) == (ONLY_ROLE, factory)
    assert role.settings == plan.settings == settings_from({"workers": 3})
    assert role.settings.bind == (Address("127.0.0.1", 8000),)


def test_each_role_has_its_app_by_its_name_in_the_order_given() -> None:
    """Apps of every kind; what they are is looked at where they are used."""
    plan = plan_of(web=Role(factory), jobs=Role("pkg.module:work"))

    assert [(name, role.name, role.app) for name, role in plan.roles.items()] == [
        ("web", "web", factory),
        ("jobs", "jobs", "pkg.module:work"),
    ]


def test_what_a_role_does_not_say_is_as_given_to_the_cluster() -> None:
    """And what nobody says has its default."""
    roles = {"web": Role(factory, workers=4), "jobs": Role(factory)}
    plan = plan_from(None, roles, {"workers": 2, "graceful_timeout": 5})

    web, jobs = (role.settings for role in plan.roles.values())
    assert (plan.settings.workers, web.workers, jobs.workers) == (2, 4, 2)
    assert {web.graceful_timeout, jobs.graceful_timeout} == {5.0}
    assert jobs.boot_timeout == settings_from({}).boot_timeout


def test_a_role_without_bind_listens_nowhere() -> None:
    """The default address is for one app; of two roles only one could have it."""
    plan = plan_of(web=Role(factory, bind=[":8000", "[::1]:9000"]), jobs=Role(factory))

    assert plan.roles["web"].settings.bind == (Address("", 8000), Address("::1", 9000))
    assert plan.roles["jobs"].settings.bind == ()


def test_a_stop_takes_as_long_as_the_role_that_takes_longest() -> None:
    """Whoever watches over the program waits for all of them."""
    plan = plan_of(
        web=Role(factory, graceful_timeout=5),
        messaging=Role(factory, graceful_timeout=90),
        jobs=Role(factory, graceful_timeout=7),
    )

    assert plan.graceful_timeout == 90.0


@pytest.mark.parametrize(
    ("app", "roles", "given", "reason"),
    [
        (None, None, {}, "give an app to serve, or roles={name: Role"),
        (factory, {"web": Role(factory)}, {}, "either one app or roles, not both"),
        (None, {"web": Role(factory)}, {"bind": ":80"}, "bind: with roles, give a bind to each"),
        (None, {}, {}, "roles: {} is not allowed; give a dict of one or more"),
        (None, [Role(factory)], {}, r"roles: \[<Role .* is not allowed; give a dict"),
        (None, {"web": factory}, {}, r"roles: 'web': <function .* is not a Role\(app"),
        (None, {"web": Role}, {}, "roles: 'web': .* is not a Role"),
        (None, {"web": Role(factory)}, {"wokers": 2}, "did you mean 'workers'"),
        (factory, None, {"workers": 0}, "workers: 0 is not allowed"),
    ],
)
def test_what_makes_no_sense_is_refused(
    app: object, roles: object, given: dict[str, Any], reason: str
) -> None:
    """With what would."""
    with pytest.raises(ConfigError, match=reason):
        plan_from(app, roles, given)


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".web", "-web", "é", "a\n", "x" * 65, 5, None])
def test_a_name_that_could_not_stand_everywhere_is_refused(name: Any) -> None:
    """It goes into environments, logs and labels."""
    with pytest.raises(ConfigError, match=r"roles: .* is no name; give letters"):
        plan_from(None, {name: Role(factory)}, {})


@pytest.mark.parametrize("name", ["web", "Web-2", "0", "a.b_c", "x" * 64])
def test_an_ordinary_name_is_good(name: str) -> None:
    """Also one that looks like a number."""
    assert [*plan_from(None, {name: Role(factory)}, {}).roles] == [name]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"wokers": 2}, "did you mean 'workers'"),
        ({"workers": 0}, "workers: 0 is not allowed"),
        ({"bind": "nowhere"}, "bind: 'nowhere' is not allowed"),
        ({"policy": ByMoon}, "policy: <class '.*ByMoon'>: affinity_by='moon' is not allowed"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_where_it_is_written(
    settings: dict[str, Any], reason: str
) -> None:
    """Not when the roles are put together, which may be in another file."""
    with pytest.raises(ConfigError, match=reason):
        Role(factory, **settings)


@pytest.mark.parametrize("name", sorted(OF_THE_CLUSTER))
def test_what_steers_the_program_is_no_role_s_own(name: str) -> None:
    """There is one log level, and one wait before a stop."""
    value = getattr(settings_from({}), name)

    with pytest.raises(ConfigError, match=f"Role: {name} cannot be one role's own: give it to"):
        Role(factory, **{name: value})
    assert getattr(plan_from(None, {"web": Role(factory)}, {name: value}).settings, name) == value


def test_its_repr_says_what_it_runs_and_how() -> None:
    """In one line, however long that of the app is."""
    assert repr(Role("pkg:app", workers=2)) == "<Role 'pkg:app' {'workers': 2}>"
    assert len(repr(Role("x" * 500))) < 120


# ---- settings that make no sense together


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"bind": ":80", "policy": {":81": "sticky"}},
            r"policy: :81 is not among the addresses of bind \(:80\)",
        ),
        ({"proxy_protocol": True}, "proxy_protocol: give the networks of your proxies"),
        ({"trusted_proxies": "::1"}, "trusted_proxies: without proxy_protocol"),
        (
            {"policy": "shared", "when_full": "503"},
            "when_full: cannot be used with the policy 'shared'",
        ),
        (
            {"policy": "shared", "max_connections_total": 5},
            "max_connections_total: cannot be used with the policy 'shared'",
        ),
        (
            {
                "bind": ":80",
                "policy": {":80": "shared"},
                "proxy_protocol": True,
                "trusted_proxies": "::1",
            },
            "proxy_protocol: cannot be used with the policy 'shared'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], reason: str) -> None:
    """Before anything starts; of a role with its name."""
    with pytest.raises(ConfigError, match=f"^{reason}"):
        plan_from(factory, None, given)
    with pytest.raises(ConfigError, match=f"^role 'web': {reason}"):
        plan_from(None, {"web": Role(factory, **given)}, {})


def test_what_code_gives_to_run_app_is_a_default() -> None:
    """What was given to the cluster comes first, what was not has the default as before."""
    (spec,) = plan_from("server:app", None, {"workers": 3, "backlog": 5}).roles.values()
    call = RunAppCall({"bind": ["127.0.0.1:9000"], "backlog": 7, "graceful_timeout": 2.0}, "")

    settings = spec.settings_with(call)

    assert settings.bind == (Address("127.0.0.1", 9000),)
    assert (settings.backlog, settings.graceful_timeout, settings.workers) == (5, 2.0, 3)
    assert spec.settings_with(None) == spec.settings


def test_a_role_without_bind_listens_where_its_code_says() -> None:
    """A module that calls run_app has said so, and nothing else has."""
    spec = plan_of(web=Role("server:app", backlog=5)).roles["web"]
    settings = spec.settings_with(RunAppCall({"bind": [":8080"], "backlog": 7}, ""))
    assert (settings.bind, settings.backlog) == ((Address("", 8080),), 5)


def test_the_policy_of_an_address_waits_for_what_a_script_gives() -> None:
    """Where a script listens is not known before it has run; then the check is made."""
    plan = plan_from(Script("server.py"), None, {"policy": {"127.0.0.1:9000": "least_loaded"}})
    (spec,) = plan.roles.values()

    spec.settings_with(RunAppCall({"bind": ["127.0.0.1:9000"]}, ""))
    with pytest.raises(ConfigError, match="is not among the addresses of bind"):
        spec.settings_with(RunAppCall({"bind": ["127.0.0.1:1"]}, ""))
