"""The commands `mbrl ope` and `mbrl online`. Heavy imports stay inside them."""

from pathlib import Path


def ope(
    runs: tuple[Path, ...],
    /,
    dataset: Path,
    discount: float = 0.99,
    sampled: bool = False,
    episodes: int = 0,
    model: bool = True,
    calibration: bool = False,
    updates: int = 10_000,
    seed: int = 0,
    model_cache: str | None = None,
    threads: int = 1,
) -> int:
    """Say what policies are worth, and how far to believe it, from logged data alone.

    Prints what each estimator says of each run, with intervals, and writes it to ope.json in its directory. With
    several runs, of several penalty weights and rollout lengths say, also which one each estimator would choose.
    docs/trust.md says what the numbers mean.

    Args:
        runs: Run directories of agents, trained on the dataset or not.
        dataset: File of logged episodes.
        discount: Of rewards, per step.
        sampled: Evaluate the policy that draws its actions, as in training; without, the deterministic one that mbrl
            evaluate plays. Importance sampling of continuous actions needs it.
        episodes: Also play so many in the dataset's environment, to compare with, and to tell the regret of choices.
        model: Also evaluate in an ensemble that is fitted to the dataset.
        calibration: Also compare penalties with the true errors of the model: of a run on a dataset its own, where it
            has one, else of one that is fitted to the dataset.
        updates: Of fitted Q evaluation.
        seed: Of everything random.
        model_cache: Folder of fitted models.
        threads: CPU threads of torch.
    """
    from mbrl.experiments.ope import OPEConfig
    from mbrl.experiments.ope_runs import evaluate_runs
    from mbrl.experiments.runs import set_threads
    from mbrl.learners.fqe import FQEConfig

    set_threads(threads)
    config = OPEConfig(discount=discount, seed=seed, fqe=FQEConfig(updates=updates))
    evaluate_runs(
        runs,
        dataset,
        config,
        sampled=sampled,
        episodes=episodes,
        model=model,
        calibration=calibration,
        cache=model_cache,
    )
    return 0


def online(
    run: Path,
    /,
    total_timesteps: int = 10_000,
    update_ratio: float | None = None,
    model_every: int | None = None,
    device: str | None = None,
    dataset: Path | None = None,
    seed: int = 0,
    root: Path = Path("runs"),
    minutes: float | None = None,
    threads: int = 1,
) -> int:
    """Go on learning on the real environment, where a run on a dataset ended: by MBPO, in a new run directory.

    Policy, model and data go on together. The settings of the model and of its rollouts stay as they were; the others
    are those of mbrl train mbpo. mbrl resume goes on with the new run, with --settings if they are to change.

    Args:
        run: Run directory of mopo, mobile, combo or cql.
        total_timesteps: Real environment steps.
        update_ratio: Updates of the learner per real step.
        model_every: Real steps between fits of the model.
        device: Of torch, such as cpu; by default that of the run.
        dataset: Where the dataset of the run is now; by default where it was.
        seed: Of everything random.
        root: Folder of run directories.
        minutes: Stop after about as many, with a checkpoint.
        threads: CPU threads of torch.
    """
    from mbrl.experiments import runs
    from mbrl.experiments.online_runs import create_online_run, default_config
    from mbrl.experiments.reports import report_training

    runs.set_threads(threads)
    runs.check_minutes(minutes)
    given = {"update_ratio": update_ratio, "model_every": model_every, "device": device}
    changes = {name: value for name, value in given.items() if value is not None}
    config = default_config(run, total_timesteps=total_timesteps, dataset=dataset, **changes)
    made = create_online_run(run, config, seed=seed, root=root, dataset=dataset)
    print(f"run directory: {made.path}", flush=True)
    report_training(made, runs.train_run(made, minutes=minutes))
    return 0
