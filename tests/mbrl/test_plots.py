"""Plots: the lines are the metrics, and every axis says what it is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mbrl.experiments import plots
from mbrl.experiments.metrics import STEP
from mbrl.experiments.plots import EVALUATION, RETURN, plot_model, plot_runs
from mbrl.experiments.run import Run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, out: (figures.append(figure), save(figure, out))[1])
    return figures


def make(root: Path, env_id: str = "E-v0", algo: str = "pets", seed: int = 0, episodes: int = 3) -> Run:
    run = Run.create(root, env_id, algo, seed, {})
    for k in range(1, episodes + 1):
        run.log({STEP: 10 * k, RETURN: float(k + seed)})
    return run


def legend(figure: Figure) -> list[str]:
    found = figure.legends or [figure.axes[0].get_legend()]
    return [text.get_text() for text in found[0].get_texts()]


def test_lines_are_returns_against_real_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make(tmp_path, seed=0), make(tmp_path, seed=5)]
    runs[0].log({STEP: 40, RETURN: float("nan")})  # null: left out
    runs[1].log({STEP: 25, EVALUATION: 7.5, "eval/std_reward": 1.0})
    runs[1].log({STEP: 30, "model/rmse_1": 0.1})
    out = plot_runs([run.path for run in runs], tmp_path / "new" / "curves.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[10, 1], [20, 2], [30, 3]],
        [[10, 6], [20, 7], [30, 8]],
    ]
    assert axes.collections[0].get_offsets().tolist() == [[25, 7.5]]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "E-v0",
        "real environment steps",
        "return per episode",
    )
    assert legend(drawn[0]) == ["pets, seed 0", "pets, seed 5", "evaluation"]


def test_evaluations_that_diverged_are_marked(tmp_path: Path, drawn: list[Figure]) -> None:
    run = make(tmp_path)
    for step, ret in ((10, 7.5), (20, None), (30, float("nan"))):
        run.log({STEP: step, EVALUATION: ret})
    plot_runs([run.path], tmp_path / "curves.png")
    evaluations, diverged, *_ = drawn[0].axes[0].collections
    assert evaluations.get_offsets().tolist() == [[10, 7.5]]
    assert diverged.get_offsets().tolist() == [[20, 0.02], [30, 0.02]]  # at the lower edge, for they have no return
    assert legend(drawn[0])[-1] == "evaluation that diverged"


def test_labels_tell_runs_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make(tmp_path), make(tmp_path), make(tmp_path, env_id="F-v0")]
    plot_runs([run.path for run in runs], tmp_path / "x.png")
    labels = legend(drawn[0])
    assert len(set(labels)) == 3
    assert labels[0].startswith("pets, seed 0, E-v0 (")
    assert labels[2] == "pets, seed 0, F-v0"
    assert drawn[0].axes[0].get_title() == "E-v0, F-v0"


def test_many_runs_differ_in_colour_or_style(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_runs([make(tmp_path, seed=seed).path for seed in range(9)], tmp_path / "x.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].lines}
    assert len(looks) == 9
    assert len(legend(drawn[0])) == 9


def test_many_episodes_become_a_running_mean(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_runs([make(tmp_path, episodes=200).path], tmp_path / "x.png")
    cloud, mean = drawn[0].axes[0].lines[:2]
    assert cloud.get_ydata().tolist() == list(range(1, 201))
    assert np.allclose(mean.get_ydata()[10:-10], cloud.get_ydata()[10:-10])  # the mean of a line is the line
    assert "single episodes (bold: their running mean)" in legend(drawn[0])


def test_a_run_without_an_episode_is_named(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_runs([make(tmp_path, episodes=0).path], tmp_path / "x.png")
    assert legend(drawn[0]) == ["pets, seed 0 (no episode yet)"]


def test_the_path_that_is_told_is_the_pictures(tmp_path: Path) -> None:
    run = make(tmp_path)
    out = plot_runs([run.path], tmp_path / "curves")
    assert out == tmp_path / "curves.png"
    assert out.exists()
    with pytest.raises(ValueError, match=r"out: expected a picture's path, such as .*, got a folder"):
        plot_runs([run.path], tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        plot_runs([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="expected a run directory"):
        plot_runs([tmp_path], tmp_path / "x.png")


def test_model_error_and_coverage_by_horizon(tmp_path: Path, drawn: list[Figure]) -> None:
    run = make(tmp_path)
    for step, error in ((100, 0.5), (200, 0.25)):
        run.log({STEP: step, "model/rmse_1": error, "model/coverage90_1": 0.9, "model/rmse_25": 4 * error})
    plot_model(run.path, tmp_path / "m.png")
    error, coverage = drawn[0].axes
    assert [line.get_xydata().tolist() for line in error.lines] == [[[100, 0.5], [200, 0.25]], [[100, 2], [200, 1]]]
    assert coverage.lines[0].get_xydata().tolist() == [[100, 0.9], [200, 0.9]]
    assert (error.get_ylabel(), coverage.get_ylabel()) == ("error (std of the data)", "covered by the 90 % interval")
    assert [line.get_label() for line in error.lines] == ["1 step ahead", "25 steps ahead"]
    assert coverage.get_xlabel() == "real environment steps"


def test_a_run_without_model_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model/rmse_\*"):
        plot_model(make(tmp_path).path, tmp_path / "m.png")
