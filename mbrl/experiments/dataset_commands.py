"""The commands of `mbrl dataset`. Heavy imports stay inside them."""

from pathlib import Path
from typing import Literal

from mbrl.pipelines.mpc_config import PlannerName


def collect(
    kind: Literal["random", "medium", "medium-replay", "expert", "medium-expert"],
    /,
    out: Path,
    run: str | None = None,
    expert: str | None = None,
    env_id: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    deterministic: bool = False,
    noise: float = 0.0,
    planner: PlannerName = "icem",
    threads: int = 1,
) -> int:
    """Make a dataset from a run, from MPC on the true model, or from random actions.

    Args:
        kind: random: uniform actions; medium, expert: the policy of --run plays; medium-replay: what --run has in its
            replay buffer; medium-expert: half by --run, behind it half by --expert.
        out: File to write, such as data/hopper-medium.hdf5.
        run: Run directory, of which the newest checkpoint counts; or simulator: MPC on the true model of --env-id.
        expert: Likewise, of medium-expert.
        env_id: Gymnasium id; the run's environment by default.
        steps: How many; medium-replay takes all that there are without.
        seed: Of the environment, and of what is drawn.
        deterministic: Take the best actions instead of drawing them as in training.
        noise: Around the best actions: standard deviation in half their range, or the share of random discrete ones.
        planner: Of MPC.
        threads: CPU threads of torch.
    """
    import torch

    from mbrl.data.datasets import save_dataset
    from mbrl.data.hdf5 import check_free, h5
    from mbrl.experiments.collection import collect_dataset

    torch.set_num_threads(threads)
    h5()  # what is missing is told before there is anything to lose
    check_free(out)
    dataset = collect_dataset(
        kind,
        steps=steps,
        run=run,
        expert=expert,
        env_id=env_id,
        seed=seed,
        deterministic=deterministic,
        noise=noise,
        planner=planner,
    )
    returns = dataset.returns()
    print(f"{len(dataset)} rows in {dataset.episodes} episodes, return {returns.mean():.1f} +- {returns.std():.1f}")
    print(f"dataset: {save_dataset(dataset, out)}")
    return 0


COMMANDS = {"collect": collect}
