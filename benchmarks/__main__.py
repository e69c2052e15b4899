"""Every benchmark, one after the other, then all targets in one table.

python -m benchmarks [--quick] [--rounds N]
"""

import importlib
import sys
from collections.abc import Sequence

from benchmarks import harness, report

QUESTIONS = (
    "request_cpu",
    "primary_cpu",
    "evenness",
    "replace",
    "reload_loss",
    "reload_wait",
    "stop_loss",
    "primary_memory",
    "channel_echo",
    "policy_cost",
    "dispatch_cost",
    "balance",
    "slow_requests",
    "full_cost",
)


def main(argv: Sequence[str]) -> int:
    """The number of benchmarks that could not be run, and 1 at least if a target was missed."""
    harness.parse_options(__doc__, argv, None)  # --help and mistakes end here, not in the first
    figures: list[report.Figure] = []
    failed = []
    for question in QUESTIONS:
        print(f"\n=== {question} ===")
        try:
            figures += importlib.import_module(f"benchmarks.{question}").main(argv)
        except harness.BenchmarkFailed as failure:
            print(failure)
            failed.append(question)
    report.print_figures(figures)
    for question in failed:
        print(f"  {question}: FAILED, see above")
    return len(failed) or int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
