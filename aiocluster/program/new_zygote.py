"""A zygote of `run` that imports or unpickles the app without running the program."""

from typing import NoReturn

from aiocluster.children.start import unpickled_zygote
from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.program.output import open_standard_files, set_up_logging


def zygote_of_a_program(fd: int) -> NoReturn:
    """Be the zygote of a program: the main function of the interpreter that `unpickling` starts."""
    unpickled_zygote(fd, _begin)


def _begin(spec: RoleSpec) -> None:
    """Do what `run` does before it starts a zygote."""
    open_standard_files()
    set_up_logging(Plan(spec.settings, {spec.name: spec}))
