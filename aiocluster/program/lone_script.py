"""A script on a system other than Linux: it runs in this process, and its run_app serves here."""

import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from aiocluster.children.app import enter_folder, run_to_serve
from aiocluster.children.call import log_access_by, settings_of
from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.config.script import Script
from aiocluster.errors import BootError
from aiocluster.ipc.error_text import describe
from aiocluster.program.output import say
from aiocluster.program.runner import EXIT_OK, OnStart, boot_failed
from aiocluster.program.signals import release_signals
from aiocluster.program.single_process import run_in_one_process
from aiocluster.worker.app_exit import describe_start
from aiocluster.worker.single_process import set_environment
from aiocluster.zygote.run_app import RunApp, Serve


def serve_script(script: Script, spec: RoleSpec, on_start: OnStart | None) -> int:
    """Run the script to its end, and serve the app that it gives to run_app; return the exit code.

    The settings given in `spec` override the arguments of run_app. An exception that the script
    raises after it has served, most often SystemExit, is passed on.
    """
    set_environment(spec, 1)
    run_app = RunApp(_serving(spec, on_start), str(script), for_script=False)
    run_app.install()
    error: BaseException | None = None
    try:
        enter_folder(spec)
        run_to_serve(script, run_app)
    except BaseException as raised:
        if run_app.was_called and run_app.refusal is None:
            raise
        error = raised
    finally:
        run_app.imported()
    if run_app.refusal is not None:
        return boot_failed(BootError(*describe(run_app.refusal), kind="refused"))
    if error is None or isinstance(error, KeyboardInterrupt):
        return EXIT_OK
    return boot_failed(BootError(*describe_start(error, str(script))))


def _serving(spec: RoleSpec, on_start: OnStart | None) -> Serve:
    def serve(app: object, arguments: Mapping[str, Any]) -> None:
        settings, call = settings_of(spec, arguments)
        log_access_by(arguments.get("access_log"))
        say(call.words_of(str(spec.app), spec.given))
        served = msgspec.structs.replace(spec, app=app, settings=settings)
        plan = Plan(settings, {spec.name: served})
        code = run_in_one_process(plan, on_start, arguments.get("loop"))
        # The script goes on, and signals have their former effects again.
        release_signals()
        if code != EXIT_OK:
            sys.exit(code)

    return serve
