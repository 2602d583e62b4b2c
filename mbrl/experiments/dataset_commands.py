"""The commands of `mbrl dataset`. Heavy imports stay inside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mbrl.pipelines.mpc_config import PlannerName

Doubt = Literal["constant", "single", "jump"]


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
    from mbrl.data.datasets import save_dataset
    from mbrl.data.hdf5 import h5, prepare
    from mbrl.experiments.collection import collect_dataset
    from mbrl.experiments.runs import set_threads

    set_threads(threads)
    h5()  # what is missing is told before there is anything to lose
    prepare(out)
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


def inspect(file: Path, /, picture: Path | None = None) -> int:
    """Show what is in a dataset: sizes, ends, alignment, saturated actions, coverage, duplicates, returns.

    Args:
        file: Native or D4RL's HDF5 file, or a Minari dataset's folder.
        picture: PNG file to write; by default beside the dataset.
    """
    from mbrl.data.datasets import load_dataset
    from mbrl.experiments.dataset_report import inspect_dataset, report
    from mbrl.experiments.dataset_report import picture as draw

    data = load_dataset(file)
    found = inspect_dataset(data)
    print(report(data, found))
    print(f"picture: {draw(data, found, picture or file.with_name(file.name + '.png'))}")
    return 0


def verify(file: Path, /, env_id: str | None = None, allow: tuple[Doubt, ...] = ()) -> int:
    """Look for defects in a dataset, and run the task functions of its environment over it.

    Args:
        file: Native or D4RL's HDF5 file, or a Minari dataset's folder.
        env_id: Gymnasium id, where the dataset does not name its environment.
        allow: What may be: constant (a dimension that never changes), single (one episode only), jump (episodes that
            end in the next one's first observation).
    """
    from mbrl.data.dataset_checks import check_dataset
    from mbrl.data.datasets import load_dataset
    from mbrl.experiments.dataset_verify import verify_dataset

    data = load_dataset(file)
    check_dataset(data, allow=allow)
    print(f"no defects in {len(data)} rows of {data.episodes} episodes")
    if data.info.env_id is None and env_id is None:
        print("the dataset does not name its environment; --env-id compares it with one")
        return 0
    done = verify_dataset(data, env_id=env_id)
    if done.warning:
        print(f"warning: {done.warning}")
    if done.rows:
        reward = "rewards agree" if done.reward else "rewards are not told by observations, and have to be learned"
        ends = "terminations agree" if done.termination else "episodes never terminate, and none does"
        print(f"{reward}; {ends}")
    return 0


def import_(
    source: Path, /, out: Path, env_id: str | None = None, drop_ends: bool = False, allow: tuple[Doubt, ...] = ()
) -> int:
    """Bring a D4RL file or a Minari dataset into the native format, piece by piece, with everything checked.

    Args:
        source: HDF5 file in D4RL's layout, or a Minari dataset's folder.
        out: File to write.
        env_id: Gymnasium id of its environment, for bounds and evaluation; by default what the source says.
        drop_ends: Of a D4RL file without next observations: leave out the last step of every episode.
        allow: What may be: see mbrl dataset verify.
    """
    from mbrl.experiments.conversion import import_dataset

    data = import_dataset(source, out, env_id=env_id, drop_ends=drop_ends, allow=allow)
    print(f"{len(data)} rows in {data.episodes} episodes")
    print(f"dataset: {out}")
    return 0


def export(file: Path, /, out: Path, to: Literal["minari", "d4rl"] = "minari") -> int:
    """Write a dataset in the layout of Minari or D4RL.

    Args:
        file: The dataset, in any format.
        out: For Minari a folder whose name ends in a version, such as hopper-medium-v0; minari.load_dataset finds it
            in $MINARI_DATASETS_PATH. For D4RL a file.
        to: The layout.
    """
    from mbrl.experiments.conversion import export_dataset

    print(f"dataset: {export_dataset(file, out, to)}")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "collect": collect,
    "inspect": inspect,
    "verify": verify,
    "import": import_,
    "export": export,
}
