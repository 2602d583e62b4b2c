"""Every algorithm that trains an agent, from the command line: trained, killed, resumed, evaluated, drawn, changed."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from mbrl.cli import main
from mbrl.experiments import runs
from mbrl.experiments.agent_runs import ALGORITHMS, agent_settings
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.metrics import read_metrics
from mbrl.experiments.provenance import machine
from mbrl.experiments.recorder import RunRecorder
from mbrl.experiments.run import Run
from mbrl.learners.dqn import DQNConfig
from mbrl.learners.sac import SACConfig

STEPS = 60
TINY = (
    f"--total-timesteps {STEPS} --initial-steps 20 --batch-size 8 --hidden 8 8 --eval-every 30 --eval-episodes 1 "
    "--checkpoint-every 10"
).split()
MODEL = "--members 3 --elites 2 --model-hidden 8 8 --model-every 20 --model-max-steps 10 --diagnostic-horizons 1"
EXTRA: dict[str, str] = {
    "redq": "--update-ratio 2 --actor-every 3",
    "droq": "--update-ratio 2 --actor-every 3",
    "mbpo": f"{MODEL} --rollout-starts 20 --retain-steps 20 --update-ratio 2 --rollout-length.last 2",
    "dyna": f"{MODEL} --planning-updates 2",
    "reinforce": "--batch-steps 15 --baseline-updates 2",
}
ENVIRONMENTS = {
    "dqn": "CartPole-v1",
    "discrete_sac": "CartPole-v1",
    "mbpo": "InvertedPendulum-v5",
    "dyna": "CartPole-v1",
    "reinforce": "CartPole-v1",
}
ALL = pytest.mark.parametrize("algorithm", ALGORITHMS)


def command(algorithm: str, root: Path) -> list[str]:
    env_id = ENVIRONMENTS.get(algorithm, "Pendulum-v1")
    tiny = [*TINY[:2], *TINY[6:]] if algorithm == "reinforce" else TINY  # which learns from whole episodes
    settings = [*tiny, *EXTRA.get(algorithm, "").split()]
    return ["train", algorithm, "--env-id", env_id, "--seed", "3", "--root", str(root), *settings]


def train(algorithm: str, root: Path, *more: str) -> Path:
    assert main([*command(algorithm, root), *more]) == 0
    (path,) = root.iterdir()
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Finished runs by algorithm, made when they are first asked for."""
    made: dict[str, Path] = {}

    def run(algorithm: str) -> Path:
        if algorithm not in made:
            made[algorithm] = train(algorithm, tmp_path_factory.mktemp(algorithm))
        return made[algorithm]

    return run


def outcome(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The metrics without their timings, and everything that the last checkpoint holds."""
    rows = [
        {k: v for k, v in row.items() if not k.startswith("time/") or k == "time/total_timesteps"}
        for row in read_metrics(run)
    ]
    # Bytes, since NaN, the log-probability of an unknown policy, does not equal itself.
    return rows, {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(run)[0].items()}


def kill_at_random(algorithm: str, root: Path) -> Path:
    """Train in another process, and end it with SIGKILL after some of its checkpoints."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mbrl.experiments.runs"])
    process = context.Process(target=main, args=(command(algorithm, root),))
    process.start()
    seed = time.time_ns()
    print(f"killed at a moment drawn with seed {seed}")  # pytest shows it where the test fails
    moment, deadline = random.Random(seed), time.monotonic() + 60
    saved = moment.randrange(0, 4)
    while process.is_alive() and time.monotonic() < deadline:
        if len(list(root.glob("*/config.json"))) and steps(root) >= 10 * saved:
            break
        time.sleep(0.02)
    time.sleep(moment.uniform(0, 0.02))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (path,) = root.iterdir()
    return path


def steps(root: Path) -> int:
    names = [path.name for path in root.glob("*/checkpoints/*-step*")]
    return max((int(name.split("-step")[1]) for name in names), default=0)


@ALL
def test_killed_and_resumed_equals_uninterrupted(algorithm: str, trained: Any, tmp_path: Path) -> None:
    run = kill_at_random(algorithm, tmp_path)
    assert steps(tmp_path) < STEPS
    assert main(["resume", str(run)]) == 0
    rows, tensors = outcome(trained(algorithm))
    resumed_rows, resumed = outcome(run)
    assert resumed_rows == rows
    assert resumed.keys() == tensors.keys()
    assert {name for name in tensors if resumed[name] != tensors[name]} == set()
    assert {"eval/mean_reward", "train/n_updates"} <= set().union(*rows)


@ALL
def test_a_run_is_evaluated(algorithm: str, trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained(algorithm)), "--episodes", "1"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out


def test_runs_of_different_algorithms_are_drawn_together(trained: Any, tmp_path: Path) -> None:
    paths = [str(trained(algorithm)) for algorithm in ("sac", "td3")]
    assert main(["plot", *paths, "--out", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_minutes_end_a_run_that_then_goes_on(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("sac", tmp_path, "--minutes", "1e-6")
    assert f"stopped at step 1 of {STEPS}; to go on: mbrl resume {run}" in capsys.readouterr().out
    assert main(["resume", str(run), "--minutes", "1e-6"]) == 0
    assert "stopped at step 2 of" in capsys.readouterr().out
    assert main(["resume", str(run)]) == 0
    assert outcome(run) == outcome(trained("sac"))


def test_a_finished_run_without_checkpoints_is_not_trained_over(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained("sac"), tmp_path / trained("sac").name))
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["resume", str(run)]) == 2
    assert f"its metrics go to {STEPS} of {STEPS}: its checkpoints were removed" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before
    lines = before.splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))  # killed before its first checkpoint
    assert main(["resume", str(run)]) == 0
    assert outcome(run) == outcome(trained("sac"))


def test_other_settings_are_shown_and_refused(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("sac", tmp_path, "--total-timesteps", "30")
    before = (run / "config.json").read_bytes()
    changes = ["--settings", "lr=1e-4", "total_timesteps=40", "discount=0.99"]
    assert main(["resume", str(run), *changes]) == 2
    error = capsys.readouterr().err
    assert "lr: 0.001 -> 0.0001" in error
    assert "total_timesteps: 30 -> 40" in error
    assert "discount" not in error  # as it was
    assert (run / "config.json").read_bytes() == before

    assert main(["resume", str(run), *changes, "--accept-changes"]) == 0
    opened = Run.open(run)
    assert opened.header["machines"] == [machine()]  # in two pieces on one
    assert agent_settings(opened).learner.lr == 1e-4
    assert read_metrics(run)[-1]["time/total_timesteps"] <= 40
    assert load_checkpoint(run)[1]["counters"]["steps"] == 40
    (change,) = opened.header["changes"]
    assert change["config"]["learner"]["lr"] == 1e-3
    assert main(["resume", str(run)]) == 0  # the new settings are the run's now


def test_settings_that_do_not_fit_leave_the_run_as_it_was(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained("sac"), tmp_path / "run")
    before = (run / "config.json").read_bytes()
    changes = ["--settings", "hidden=16,16", f"total_timesteps={STEPS + 2}", "--accept-changes"]
    assert main(["resume", str(run), *changes]) == 2
    error = capsys.readouterr().err
    assert "the agent of the checkpoint" in error
    assert "hidden: [8, 8] -> [16, 16]" in error
    assert "expected tensor 0 of shape [1, 3, 16] in the checkpoint, got one of shape [1, 3, 8]" in error
    assert len(error) < 500
    assert (run / "config.json").read_bytes() == before
    assert main(["resume", str(run), *changes[:1], *changes[2:]]) == 0  # without the one that does not fit
    assert load_checkpoint(run)[1]["counters"]["steps"] == STEPS + 2


def test_an_update_that_is_not_finite_leaves_its_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command("sac", tmp_path), "--lr", "1e30"]) == 2
    (run,) = tmp_path.iterdir()
    (batch,) = run.glob("not-finite-update-*.safetensors")
    error = capsys.readouterr().err
    assert "expected a finite number, got" in error
    assert f"its batch is in {batch}" in error
    stored = safetensors.torch.load_file(batch)
    assert list(stored["next_obs"].shape) == [1, 8, 3]
    assert load_checkpoint(run)[1]["counters"]["steps"] == 20


def test_settings_are_read_back_as_they_were(trained: Any) -> None:
    for algorithm in ALGORITHMS:
        run = Run.open(trained(algorithm))
        settings = runs.settings_of(run)
        again = json.loads((run.path / "config.json").read_text())["config"]
        assert settings["loop"].total_timesteps == STEPS
        assert settings["learner"].hidden == (8, 8)
        assert again["agent"]


def test_several_environments_in_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("sac", tmp_path, "--num-envs", "2", "--vector", "async", "--minutes", "1e-6")
    with pytest.warns(UserWarning, match="new episodes"):
        assert main(["resume", str(run)]) == 0
    assert load_checkpoint(run)[1]["counters"]["steps"] == STEPS


FRAGILE = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv

class Fragile(PendulumEnv):
    def step(self, action):
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 15:
            os._exit(7)
        return super().step(action)

gym.register("Fragile-v0", entry_point=Fragile, max_episode_steps=200)
"""


def test_a_worker_that_dies_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "module_with_fragile.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = command("sac", tmp_path / "runs")
    arguments[arguments.index("Pendulum-v1")] = "module_with_fragile:Fragile-v0"
    assert main([*arguments, "--num-envs", "2", "--vector", "async", "--eval-every", "0"]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert "exit code 7" in error
    (run,) = (tmp_path / "runs").iterdir()
    assert load_checkpoint(run)[1]["counters"]["steps"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train sac --env-id CartPole-v1", "use DQN or DiscreteSAC (mbrl train dqn)"),
        ("train td3 --env-id CartPole-v1", "use DQN or DiscreteSAC (mbrl train dqn)"),
        ("train dqn --env-id Pendulum-v1", "use SAC, TD3 or DDPG (mbrl train sac)"),
        ("train pets --env-id CartPole-v1", "Discrete actions are for DQN"),
        ("train sac --env-id Pendulum-v1 --batch-size 2000000", "batch_size: expected at most buffer_size"),
        ("train sac --env-id Pendulum-v1 --device cuda:99", "device: expected one that is here"),
        ("train sac --env-id Pendulum-v1 --critics 0", "critics: expected at least 1"),
        ("train sac --env-id Pendulum-v1 --preset paper", "preset: expected mbpo or none"),
        ("train sac --env-id Swimmer-v5 --preset mbpo", "preset: expected none for Swimmer-v5, where"),
        ("train mbpo --env-id Hopper-v5 --preset best", "preset: expected one of paper, reference"),
        ("train sac --env-id Pendulum-v1 --distill", "distill: expected it with pets only"),
        ("train sac --env-id NoSuchTask-v0", "NoSuchTask-v0"),
        ("train sac --env-id Pendulum-v1 --minutes 0", "minutes: expected a positive number"),
        ("train pets --env-id Pendulum-v1 --preset paper", "preset: expected none, for pets has one an environment"),
        ("train mbpo --env-id MountainCarContinuous-v0", "termination: expected 'learned' or 'never'"),
        ("train mbpo --env-id Hopper-v5 --rollout-length.last 2000", "rollout_length: expected rollouts within an"),
        ("train mbpo --env-id InvertedPendulum-v5 --updates graph", "updates: expected"),
    ],
)
def test_bad_input_gets_one_clear_sentence(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments.split(), "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []  # no run directory that could not go on


def test_dyna_takes_the_learner_that_the_actions_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = {env_id: ALGORITHMS["dyna"].preset(env_id, None).learner for env_id in ("Acrobot-v1", "Pendulum-v1", "")}
    assert [type(learner) for learner in found.values()] == [DQNConfig, SACConfig, SACConfig]
    with pytest.raises(SystemExit):
        main(["train", "--preset", "dqn", "dyna", "--env-id", "CartPole-v1", "--help"])
    assert "--planning-updates" in capsys.readouterr().out  # dqn, the option's value, is not the algorithm


def test_an_interrupt_ends_training_between_steps_with_a_checkpoint(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, before = RunRecorder.advance, signal.getsignal(signal.SIGINT)  # a background job begins with SIG_IGN

    def interrupted(recorder: RunRecorder, steps: int) -> None:
        advance(recorder, steps)
        if steps == 27:  # no multiple of anything
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "advance", interrupted)
        assert main(command("sac", tmp_path)) == 130
    (run,) = tmp_path.iterdir()
    assert "stopping after this step" in capsys.readouterr().err
    assert load_checkpoint(run)[1]["counters"]["steps"] == 27
    assert signal.getsignal(signal.SIGINT) is before
    assert main(["resume", str(run)]) == 0
    assert outcome(run) == outcome(trained("sac"))


def test_settings_that_are_none_are_named(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained("sac"))
    assert main(["resume", run, "--settings", "hiden=3"]) == 2
    assert "got 'hiden=3'" in capsys.readouterr().err
    assert main(["evaluate", run, "--policy", "distilled"]) == 2
    assert "a run of sac has only one" in capsys.readouterr().err


def test_help_names_the_settings_of_loop_and_learner(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "sac", "--env-id", "Pendulum-v1", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--update-ratio FLOAT Updates per real step. (default: 1.0)" in text
    assert "--lr FLOAT Step size of Adam for actor, critics and temperature. (default: 0.001)" in text  # the preset's
