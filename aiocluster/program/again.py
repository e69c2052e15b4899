"""How the zygotes of a program start again: by the program, or without it."""

import logging
import sys
from collections.abc import Iterable
from dataclasses import replace

from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.errors import ConfigError
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.pickled_app import unpickling

log = logging.getLogger("aiocluster")

# The main function of a zygote that does not run the program.
_NEW_ZYGOTE = "aiocluster.program.new_zygote:zygote_of_a_program"


def interpreters_of(plan: Plan, again: InterpreterSpec) -> dict[str, InterpreterSpec]:
    return {name: _interpreter(spec, again) for name, spec in plan.roles.items()}


def _interpreter(spec: RoleSpec, again: InterpreterSpec) -> InterpreterSpec:
    """Return the interpreter that starts the next zygote of a role.

    An import string needs no program. For an object the program runs again and makes it; if that
    is not possible, the object is unpickled.
    """
    is_frozen = getattr(sys, "frozen", False)  # the program is its only interpreter
    if is_frozen or (not again.refusal and not isinstance(spec.app, str)):
        return again.of(spec.name)
    try:
        return unpickling(spec, _NEW_ZYGOTE)
    except ConfigError as error:
        return replace(again.of(spec.name), refusal=f"{again.refusal}; {error}")


def log_what_will_not_work(interpreters: Iterable[InterpreterSpec], again: InterpreterSpec) -> None:
    if refusals := [one.refusal for one in interpreters if one.refusal]:
        log.warning(
            "this program cannot be run again: %s. So a reload and an upgrade will fail, and when"
            " the zygote dies, workers that end are not replaced. Put the app into a module and"
            " give its name, 'pkg.module:name'",
            refusals[0],
        )
    elif again.refusal:
        log.info("an upgrade is not possible: this program cannot be run again: %s", again.refusal)
