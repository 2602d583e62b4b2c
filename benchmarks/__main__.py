"""`python -m benchmarks [row ...]`: measure rows and keep the figures in benchmarks/results."""

import argparse
import os
import sys
from importlib import import_module

ROWS = (
    "start",
    "ensemble_epoch",
    "cem_plan",
    "model_rollout",
    "mbpo_step",
    "mppi_plan",
    "simulator_plan",
    "mcts_search",
    "ilqr_solve",
    "pets_solve",
    "sac_update",
    "update_precision",
    "runs_batched",
    "memory",
    "scaling",
)


def main() -> int:
    """Measure the rows asked for; status 1 where one could not be quoted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--rounds", type=int, default=10, help="good rounds that a figure needs (default 10)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs; nothing is kept")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown or arguments.rounds < 1:
        parser.error(f"rows: expected some of {', '.join(ROWS)}, got {', '.join(sorted(unknown))}; rounds: at least 1")
    # Before torch is imported: one thread, here and in the processes that are started from here.
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch

    from benchmarks.harness import NoisyMachineError
    from benchmarks.report import keep

    torch.set_num_threads(1)
    failed = False
    for row in arguments.rows or ROWS:
        try:
            record = import_module(f"benchmarks.{row}").run(rounds=arguments.rounds, small=arguments.small)
        except NoisyMachineError as error:
            print(f"{row}: {error}")
            failed = True
            continue
        if not arguments.small:
            print(f"  kept in {keep(row, record)}")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
