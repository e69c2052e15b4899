"""A zygote of `run` that needs no program: the app is imported, or unpickled, by itself."""

from typing import NoReturn

from aiocluster.children.start import unpickled_zygote
from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.program.output import open_standard_files, set_up_logging


def zygote_of_a_program(fd: int) -> NoReturn:
    """The main function of the interpreter that `unpickling` starts for a program."""
    unpickled_zygote(fd, _begin)


def _begin(spec: RoleSpec) -> None:
    """Do what `run` does before there is a zygote."""
    open_standard_files()
    set_up_logging(Plan(spec.settings, {spec.name: spec}))
