"""Importance sampling and doubly robust: by hand, against exact values of a small MDP, and coverage of intervals."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl.data.datasets import Dataset
from mbrl.experiments import importance
from mbrl.experiments.importance import Episodes, effective_episodes, episodes_of, estimate, estimates
from tests.mbrl.tabular_cases import (
    BEHAVIOUR,
    DISCOUNT,
    END,
    MOVES,
    REWARD,
    START,
    TARGET,
    critics,
    data_of,
    exact,
    exact_for,
    log_probs,
)

ALL = ("per_decision", "weighted", "doubly_robust", "weighted_doubly_robust")


def episodes(dataset: Dataset, *, with_critics: bool = True, wrong: float = 0.0) -> Episodes:
    return episodes_of(dataset, log_probs(dataset), *(critics(dataset, wrong) if with_critics else ()))


@functools.cache
def drawn(seed: int) -> Episodes:
    """150 episodes, with critics that are wrong."""
    return episodes(data_of(150, seed), wrong=0.3)


def by_hand() -> Episodes:
    """Two episodes: one that ended after two steps, one that was cut after one."""
    return Episodes(
        np.array([[1.0, 2.0], [4.0, 0.0]]),
        np.log([[2.0, 0.5], [0.5, 1.0]]),
        np.array([[True, True], [True, False]]),
        np.array([True, False]),
        np.array([[3.0, 1.0], [2.0, 0.0]]),
        np.array([[1.0, 2.0, 0.0], [3.0, 5.0, 0.0]]),
    )


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # (2 * 1 + 0.5 * 4) / 2, and of the second step, that one episode knows: 0.5 * (1 * 2)
        ("per_decision", 2.0 + 0.5 * 2.0),
        # (2 * 1 + 0.5 * 4) / 2.5, and 0.5 * 2
        ("weighted", 4 / 2.5 + 0.5 * 2.0),
        # first: v1 = 2 + 0.5 (2 - 1) = 2.5, v0 = 1 + 2 (1 + 1.25 - 3) = -0.5; second: 3 + 0.5 (4 + 2.5 - 2) = 5.25
        ("doubly_robust", (-0.5 + 5.25) / 2),
        # 0: (2 (1 - 3) + 0.5 (4 - 2)) / 2.5 + (1 + 3) / 2; 1: 0.5 ((1 (2 - 1) + 0) / 1.5 + (2 * 2 + 0.5 * 5) / 2.5)
        ("weighted_doubly_robust", -3 / 2.5 + 2 + 0.5 * (1 / 1.5 + 6.5 / 2.5)),
    ],
)
def test_estimates_worked_out_by_hand(estimator, expected):
    assert estimate(by_hand(), estimator, discount=0.5).value == pytest.approx(expected, rel=1e-12)


def test_effective_episodes_worked_out_by_hand():
    """Both count at the first step, with weights 2 and 0.5; of the second one episode alone tells."""
    made = by_hand()
    assert effective_episodes(made) == 1
    both = Episodes(made.reward, made.log_ratio, made.known, np.array([True, True]))
    assert effective_episodes(both) == pytest.approx(2.5**2 / (4 + 0.25))  # of the second weights 1 and 0.5 tell more


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), scale=st.floats(0, 5), length=st.integers(1, 6))
def test_one_episode_more_is_as_good_as_one_at_most(seed, scale, length):
    """However short it is and whatever its weights: a short one must not hide what happens behind its end."""
    rng = np.random.default_rng(seed)
    lengths = np.append(rng.integers(2, 7, 8), length)
    known = np.arange(6) < lengths[:, None]
    ended = np.append(rng.random(8) < 0.3, False)
    whole = Episodes(0.0 * known, scale * rng.normal(size=(9, 6)) * known, known, ended)
    fewer = Episodes(*(x[:8] for x in (whole.reward, whole.log_ratio, known, ended)))
    assert effective_episodes(whole) <= effective_episodes(fewer) + 1 + 1e-9


def test_blocks_of_the_bootstrap_make_no_difference(monkeypatch):
    """All estimators see the same samples, however many are looked at together."""
    together = estimates(drawn(0), ALL, discount=DISCOUNT, resamples=50)
    monkeypatch.setattr(importance, "_BLOCK", 7)
    for name in ALL:
        assert estimate(drawn(0), name, discount=DISCOUNT, resamples=50) == pytest.approx(together[name], rel=1e-12)


def every_episode(steps: int) -> tuple[Dataset, np.ndarray]:
    """All episodes of so many steps at most, without noise in rewards, and the probability of each."""
    eye, parts, chances = np.eye(3), [], []
    for path in itertools.product(range(3), *([range(2), range(2), range(3)] * steps)):
        state, chance, rows, seen = path[0], START[path[0]], [], [eye[path[0]]]
        for action, end, after in zip(path[1::3], path[2::3], path[3::3], strict=True):
            chance *= BEHAVIOUR[state, action] * (END if end else 1 - END)[state, action] * MOVES[state, action, after]
            rows.append((action, REWARD[state, action], bool(end), np.log(BEHAVIOUR[state, action])))
            seen.append(eye[after])
            state = after
            if end:
                break
        if any(path[3 * len(rows) + 1 :]):
            continue  # the same episode as one whose later steps are all 0
        parts.append((seen, rows))
        chances.append(chance)
    seen, rows = [o for part, _ in parts for o in part], [r for _, part in parts for r in part]
    lengths = np.array([len(part) for _, part in parts])
    action, reward, ended, log_prob = (np.array(x) for x in zip(*rows, strict=True))
    cut = np.zeros(len(rows), dtype=bool)
    cut[lengths.cumsum() - 1] = ~ended[lengths.cumsum() - 1]
    return Dataset(np.array(seen), action, reward, ended, cut, log_prob, lengths), np.array(chances)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_there_is_no_bias(wrong):
    """The mean over all episodes that there are, by their probability, is the value, whatever the critics say."""
    dataset, chance = every_episode(2)
    assert chance.sum() == pytest.approx(1)
    made, counts = episodes(dataset, wrong=wrong), chance[None]
    steps = [np.einsum("sa,sat->st", TARGET, (1 - END)[..., None] * MOVES)] * 2
    critic = exact()[0] + wrong * np.array([[2.0, -1.0], [0.5, 1.0], [-3.0, 0.0]])
    tail = DISCOUNT**2 * START @ steps[0] @ steps[1] @ (TARGET * critic).sum(1)  # cut episodes go on with the critics
    assert importance._doubly_robust(made, DISCOUNT)(counts)[0] == pytest.approx(exact_for(2) + tail, rel=1e-12)
    assert importance._per_decision(made, DISCOUNT)(counts)[0] == pytest.approx(exact_for(2), rel=1e-12)
    # All episodes at once: the weights of any step sum up to 1.
    assert importance._weighted(made, DISCOUNT)(counts)[0] == pytest.approx(exact_for(2), rel=1e-12)
    weighted = importance._weighted_doubly_robust(made, DISCOUNT)(counts)[0]
    assert weighted == pytest.approx(exact_for(2) + tail, rel=1e-12)


@pytest.mark.parametrize("estimator", ALL)
def test_estimates_agree_with_the_exact_value_and_intervals_cover_it(estimator):
    """Over 60 datasets of 150 episodes: the mean to sampling error, and the 90 % interval in nearly 90 % of them."""
    truth, values, covered, count = exact()[2], [], 0, 60
    for seed in range(count):
        made = estimate(drawn(seed), estimator, discount=DISCOUNT, seed=seed, confidence=0.9, resamples=200)
        values.append(made.value)
        covered += made.low <= truth <= made.high
    error = np.mean(values) - truth
    assert abs(error) < 3.5 * np.std(values) / np.sqrt(count) + 0.02  # weighting has a bias of its own
    assert 46 <= covered <= 60  # a fair interval: 54, standard deviation 2.3; the bootstrap's tails are thin


def test_good_critics_narrow_the_interval():
    made = episodes(data_of(200, 0))
    width: dict[str, float] = {}
    for name in ALL:
        found = estimate(made, name, discount=DISCOUNT)
        width[name] = found.high - found.low
    assert width["doubly_robust"] < 0.8 * width["per_decision"]
    assert width["weighted_doubly_robust"] < 0.7 * width["weighted"]


def test_the_value_of_the_behaviour_is_its_mean_return():
    dataset = data_of(50, 3)
    made = episodes_of(dataset, log_probs(dataset, BEHAVIOUR))
    starts = dataset.lengths.cumsum() - dataset.lengths
    returns = [
        sum(DISCOUNT**t * r for t, r in enumerate(dataset.rewards[a : a + n]))
        for a, n in zip(starts, dataset.lengths, strict=True)
    ]
    for name in ("per_decision", "weighted"):
        found = estimate(made, name, discount=DISCOUNT)
        assert found.value == pytest.approx(np.mean(returns), rel=1e-9)
        assert found.effective == pytest.approx(50)


def test_policies_that_share_nothing_with_the_data_overflow_nothing():
    made = by_hand()
    for size in (2_000.0, -2_000.0, -np.inf):
        far = Episodes(made.reward, np.full((2, 2), size), made.known, made.terminated, made.q, made.v)
        for name in ALL:  # where all weights are 0 nothing is known, and 0.00 would be a lie
            found = estimate(far, name, discount=0.9)
            assert np.isnan(found.value) == (size == -np.inf)
            assert found.effective == (0 if size == -np.inf else 1)


def test_unknown_behaviour_is_told_with_its_row():
    dataset = data_of(5, 0)
    unknown = dataset.log_probs.copy()
    unknown[dataset.lengths[0]] = np.nan
    dataset = Dataset(**{**vars(dataset), "log_probs": unknown})
    with pytest.raises(ValueError, match=rf"got nan in episode 1, row {dataset.lengths[0]}"):
        episodes_of(dataset, log_probs(dataset))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "ordinary"}, "estimator: expected one of per_decision"),
        ({"estimator": "weighted", "discount": 1.5}, "discount"),
        ({"estimator": "weighted", "confidence": 0.0}, "confidence"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(by_hand(), **{"discount": 0.9, **arguments})


def test_doubly_robust_needs_critics():
    made = episodes(data_of(3, 0), with_critics=False)
    with pytest.raises(ValueError, match="estimator: expected one without critics"):
        estimate(made, "doubly_robust", discount=0.9)
    with pytest.raises(ValueError, match="q, v: expected both"):
        Episodes(made.reward, made.log_ratio, made.known, made.terminated, q=made.reward)
