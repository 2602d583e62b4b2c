"""The buffer against a list of Python tuples: n-step returns, sequences, the ring's seam, holes."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl.data.buffer import ReplayBuffer
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

KINDS = st.sampled_from(["step", "step", "step", "terminated", "truncated", "hole"])


def batch_of(numbers, kinds):
    """Row i: obs (x, x), action -x, reward x, next_obs (x + 0.5, x + 0.5): a row is recognised by its number x."""
    x = torch.tensor(numbers, dtype=torch.float64)
    obs = torch.stack([x, x], -1)
    terminated = torch.tensor([kind == "terminated" for kind in kinds])
    truncated = torch.tensor([kind == "truncated" for kind in kinds])
    batch = TransitionBatch(obs, -x[:, None], x, obs + 0.5, terminated, truncated, x, x / 10)
    return batch, torch.tensor([kind != "hole" for kind in kinds])


class Naive:
    """One list of (number, kind, episode) an environment; None where there is a hole."""

    def __init__(self, history, slots):
        envs = len(history[0])
        self.rows, number = [[] for _ in range(envs)], 0
        episode = [(env, 0) for env in range(envs)]
        for kinds in history:
            for env, kind in enumerate(kinds):
                number += 1
                self.rows[env].append(None if kind == "hole" else (number, kind, episode[env]))
                if kind != "step":
                    episode[env] = (env, episode[env][1] + 1)
        self.rows = [rows[-slots:] for rows in self.rows]

    def window(self, env, start, length):
        """The transitions from `start` on that are one episode."""
        rows, found = self.rows[env], []
        for row in rows[start : start + length]:
            if row is None or row[2] != rows[start][2]:
                break
            found.append(row)
        return found

    def starts(self):
        found = [(t, env) for env, rows in enumerate(self.rows) for t, row in enumerate(rows) if row is not None]
        return sorted(found)


def filled(history, slots, **kwargs):
    envs = len(history[0])
    buffer = ReplayBuffer(slots * envs, 2, 1, num_envs=envs, dtype=torch.float64, **kwargs)
    for step, kinds in enumerate(history):
        batch, valid = batch_of([step * envs + env + 1 for env in range(envs)], kinds)
        buffer.extend(batch, None if valid.all() else valid)
    return buffer


@st.composite
def histories(draw):
    envs, steps = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    return draw(st.lists(st.tuples(*[KINDS] * envs), min_size=steps, max_size=steps))


@settings(deadline=None, max_examples=100)
@given(history=histories(), slots=st.integers(1, 12))
def test_all_is_what_a_list_would_hold(history, slots):
    buffer, naive = filled(history, slots), Naive(history, slots)
    expected = [naive.rows[env][t] for t, env in naive.starts()]
    batch = buffer.all()
    assert len(buffer) == len(expected) == len(batch.reward)
    assert batch.reward.tolist() == [row[0] for row in expected]
    assert batch.terminated.tolist() == [row[1] == "terminated" for row in expected]
    assert batch.truncated.tolist() == [row[1] == "truncated" for row in expected]
    assert torch.equal(batch.discount, 1 - batch.terminated.double())
    assert torch.equal(batch.next_obs, batch.obs + 0.5)
    assert torch.equal(batch.action[:, 0], -batch.reward)
    ids = buffer.episode_ids().tolist()
    same = [[a == b for b in ids] for a in ids]
    assert same == [[a[2] == b[2] for b in expected] for a in expected]


@settings(deadline=None, max_examples=100)
@given(history=histories(), slots=st.integers(1, 12), n_step=st.integers(1, 5), gamma=st.floats(0, 1))
def test_n_step_is_the_sum_over_the_list(history, slots, n_step, gamma):
    buffer, naive = filled(history, slots), Naive(history, slots)
    if len(buffer) == 0:
        return
    batch = buffer.sample(32, generator=generator(0), discount=gamma, n_step=n_step)
    by_number = {naive.rows[env][t][0]: (env, t) for t, env in naive.starts()}
    for i in range(32):
        env, t = by_number[int(batch.obs[i, 0])]
        window = naive.window(env, t, n_step)
        last = window[-1]
        assert float(batch.reward[i]) == pytest.approx(sum(gamma**k * row[0] for k, row in enumerate(window)))
        assert batch.next_obs[i].tolist() == [last[0] + 0.5] * 2
        ended = last[1] == "terminated"
        assert float(batch.discount[i]) == pytest.approx(0.0 if ended else gamma ** len(window))
        assert bool(batch.terminated[i]) == ended
        assert bool(batch.truncated[i]) == (last[1] == "truncated")
        assert float(batch.log_prob[i]) == pytest.approx(int(batch.obs[i, 0]) / 10)


@settings(deadline=None, max_examples=100)
@given(history=histories(), slots=st.integers(1, 12), length=st.integers(1, 6))
def test_sequences_are_stretches_of_the_list(history, slots, length):
    buffer, naive = filled(history, slots), Naive(history, slots)
    if len(buffer) == 0:
        return
    batch, mask = buffer.sample_sequences(16, length, generator=generator(1))
    assert batch.obs.shape == (length, 16, 2)
    by_number = {naive.rows[env][t][0]: (env, t) for t, env in naive.starts()}
    for i in range(16):
        env, t = by_number[int(batch.reward[0, i])]
        window = [row[0] for row in naive.window(env, t, length)]
        assert mask[:, i].tolist() == [k < len(window) for k in range(length)]
        assert batch.reward[:, i].tolist() == window + [window[-1]] * (length - len(window))


def test_a_buffer_of_holes_is_empty():
    buffer = filled([("hole", "hole")], 3)
    assert len(buffer) == 0
    assert buffer.all().obs.shape == (0, 2)
    assert len(buffer.episode_ids()) == 0
    assert [len(rows) for rows in buffer.split(0.5, generator=generator(0))] == [0, 0]
    with pytest.raises(ValueError, match="collect first"):
        buffer.sample(1, generator=generator(0))


def test_three_step_returns_by_hand():
    # Rewards 1, 2, 3, 4 at discount 1/2; the episode terminates at 3, and 4 is the newest row of the next.
    buffer = filled([("step",), ("step",), ("terminated",), ("step",)], 4)
    batch = buffer.sample(200, generator=generator(0), discount=0.5, n_step=3)
    table = {1: (1 + 1 + 0.75, 0.0, 3.5), 2: (2 + 1.5, 0.0, 3.5), 3: (3.0, 0.0, 3.5), 4: (4.0, 0.5, 4.5)}
    rows = zip(batch.obs[:, 0], batch.reward, batch.discount, batch.next_obs[:, 0], strict=True)
    got = {int(x): (float(r), float(d), float(n)) for x, r, d, n in rows}
    assert got == table


def test_what_a_hole_holds_is_in_no_return():
    """Steps of a simulation that diverged may be anything."""
    buffer = ReplayBuffer(4, 2, 1, dtype=torch.float64)
    for kind, reward in (("step", 1.0), ("hole", math.nan), ("step", 2.0), ("step", 3.0)):
        batch, valid = batch_of([reward], [kind])
        buffer.extend(batch, None if valid.all() else valid)
    rewards = buffer.sample(50, generator=generator(0), discount=1.0, n_step=3).reward
    assert set(rewards.tolist()) == {1.0, 5.0, 3.0}


def test_every_transition_is_equally_likely():
    buffer = filled([("step", "hole"), ("step", "step"), ("step", "step")], 2)  # 4 transitions survive
    drawn = buffer.sample(8000, generator=generator(3)).reward
    counts = torch.stack([(drawn == x).sum() for x in buffer.all().reward])
    assert counts.sum() == 8000
    # Five standard deviations of a binomial with n = 8000, p = 1/4.
    assert (counts - 2000).abs().max() < 5 * math.sqrt(8000 * 0.25 * 0.75)


def test_same_generator_same_sample():
    buffer = filled([("step", "step")] * 9, 9)
    first, second = (buffer.sample(7, generator=generator(5), n_step=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_unordered_rows_are_never_linked():
    buffer = ReplayBuffer(10, 2, 1, dtype=torch.float64)
    buffer.extend(batch_of([1], ["step"])[0])
    buffer.extend_rows(batch_of([2, 3, 4], ["step"] * 3)[0])
    buffer.extend(batch_of([5], ["step"])[0])
    buffer.extend(batch_of([6], ["step"])[0])
    assert buffer.all().reward.tolist() == [1, 2, 3, 4, 5, 6]
    ids = buffer.episode_ids().tolist()
    assert ids[4] == ids[5]
    assert len(set(ids[:5])) == 5
    buffer.end_episodes()
    buffer.extend(batch_of([7], ["step"])[0])
    assert buffer.episode_ids()[-1] != buffer.episode_ids()[-2]


@pytest.mark.parametrize("rows", [2, 5, 6, 13])
def test_unordered_rows_push_out_the_oldest(rows):
    buffer = ReplayBuffer(5, 2, 1, dtype=torch.float64)
    for number, kind in ((1, "hole"), (2, "step"), (3, "hole"), (4, "step")):
        buffer.extend(*batch_of([number], [kind]))
    buffer.extend_rows(batch_of(list(range(5, 5 + rows)), ["step"] * rows)[0])
    kept = [x for x in range(1, 5 + rows) if x not in (1, 3) and x >= rows]
    assert buffer.all().reward.tolist() == kept
    assert len(buffer) == len(kept)


def test_end_episodes_cuts_what_looks_continuous():
    buffer = ReplayBuffer(10, 2, 1)
    buffer.extend(batch_of([1], ["step"])[0])
    buffer.end_episodes()
    buffer.extend(batch_of([2], ["step"])[0])
    assert len(set(buffer.episode_ids().tolist())) == 2


@settings(deadline=None, max_examples=50)
@given(history=histories(), fraction=st.floats(0, 0.99))
def test_split_holds_out_whole_episodes(history, fraction):
    buffer = filled(history, 24)
    ids = buffer.episode_ids()
    train, holdout = buffer.split(fraction, generator=generator(2))
    assert sorted(train.tolist() + holdout.tolist()) == list(range(len(buffer)))
    held, kept = set(ids[holdout].tolist()), set(ids[train].tolist())
    assert not held & kept
    newest = set(ids[max(len(buffer) - buffer.num_envs, 0) :].tolist())
    older = Counter(x for x in ids.tolist() if x not in newest)
    assert not held & newest
    assert len(holdout) <= fraction * older.total()
    # Something is held out wherever an episode is short enough.
    assert bool(held) == any(length <= fraction * older.total() for length in older.values())


@pytest.mark.parametrize("seed", range(5))
def test_split_passes_over_episodes_that_are_too_long(seed):
    kinds = ["step"] * 7 + ["terminated"] * 3 + ["step"]  # 8, 1 and 1 rows, and 1 under way
    _, holdout = filled([(kind,) for kind in kinds], 11).split(0.2, generator=generator(seed))
    assert holdout.tolist() == [8, 9]


@pytest.mark.parametrize("seed", range(5))
def test_the_episodes_under_way_of_all_environments_are_trained_on(seed):
    history = [("step", "step")] * 9 + [("truncated", "truncated")] + [("step", "step")]  # 10, 10, 1 and 1 rows
    buffer = filled(history, 11)
    assert [len(rows) for rows in buffer.split(0.4, generator=generator(seed))] == [22, 0]
    held = set(buffer.split(0.5, generator=generator(seed))[1].tolist())
    assert held in (set(range(0, 20, 2)), set(range(1, 20, 2)))  # of one of the two that are over


@settings(deadline=None, max_examples=50)
@given(before=histories(), more=st.integers(1, 8), slots=st.integers(1, 12))
def test_a_restored_buffer_goes_on_as_the_original(before, more, slots):
    original = filled(before, slots)
    envs = original.num_envs
    copy = ReplayBuffer(slots * envs, 2, 1, num_envs=envs, dtype=torch.float64)
    copy.load_state_dict(original.state_dict())
    for step in range(more):
        for buffer in (original, copy):
            buffer.extend(*batch_of([1000 + step * envs + e for e in range(envs)], ["step"] * envs))
    assert all(torch.equal(a, b) for a, b in zip(original.all(), copy.all(), strict=True))
    assert torch.equal(original.episode_ids(), copy.episode_ids())
    one, other = (b.sample(9, generator=generator(0), n_step=3) for b in (original, copy))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_state_is_the_slots_in_use_without_a_copy():
    buffer = filled([("step",)] * 3, 100)
    state = buffer.state_dict()
    assert state["transitions"].shape[0] == 3
    state["transitions"].zero_()
    assert buffer.all().reward.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_samples_have_the_buffers_type(dtype):
    buffer = ReplayBuffer(4, 2, 1, dtype=dtype)
    buffer.extend(batch_of([1], ["terminated"])[0])
    batch = buffer.sample(3, generator=generator(0), n_step=2)
    for name, x in batch._asdict().items():
        assert x.dtype == (torch.bool if name in ("terminated", "truncated") else dtype), name
    assert batch.terminated.all()
    assert batch.discount.eq(0).all()


def test_nothing_passes_between_host_and_device(monkeypatch):
    """Once the discounts of n steps are there, which the first sample brings."""
    buffer = filled([("step", "step")] * 9, 5)
    buffer.sample(4, generator=generator(0), n_step=3)

    def refuse(*_args, **_kwargs):
        raise AssertionError("a host copy")

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr(torch, "tensor", refuse)
    buffer.sample(4, generator=generator(0), n_step=3)
    buffer.sample_sequences(4, 3, generator=generator(0))


def test_discounts_are_those_of_each_call():
    buffer = filled([("step", "step")] * 9, 5)
    for discount, n_step in ((0.5, 2), (0.9, 2), (0.9, 3), (0.5, 2)):
        drawn = buffer.sample(50, generator=generator(0), discount=discount, n_step=n_step).discount
        assert drawn.max().item() == pytest.approx(discount)  # of the newest row
        assert drawn.min().item() == pytest.approx(discount**n_step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_buffer_on_a_gpu_gives_what_one_on_the_cpu_gives():
    host, device = filled([("step", "hole")] * 9, 5), filled([("step", "hole")] * 9, 5, device="cuda")
    assert all(torch.equal(a, b.cpu()) for a, b in zip(host.all(), device.all(), strict=True))
    drawn = device.sample(64, generator=generator(0, device="cuda"), n_step=3)
    assert drawn.obs.is_cuda
    assert set(drawn.obs[:, 0].tolist()) == set(host.all().obs[:, 0].tolist())


@pytest.mark.parametrize("slots", [4, 6, 20])
def test_a_buffer_that_has_not_given_way_goes_on_with_another_capacity(slots):
    history = [["step", "step"], ["terminated", "step"], ["step", "hole"], ["step", "truncated"], ["step", "step"]] * 2
    saved, whole = filled(history[:4], 6), filled(history[:4], slots)
    grown = ReplayBuffer(slots * 2, 2, 1, num_envs=2, dtype=torch.float64)
    grown.load_state_dict(saved.state_dict())
    for buffer in (grown, whole):
        for step, kinds in enumerate(history[4:], start=4):
            buffer.extend(*batch_of([2 * step + 1, 2 * step + 2], kinds))
    assert all(torch.equal(a, b) for a, b in zip(grown.all(), whole.all(), strict=True))
    assert torch.equal(grown.episode_ids(), whole.episode_ids())
    with pytest.raises(ValueError, match="capacity it was saved with"):
        ReplayBuffer(6, 2, 1, num_envs=2, dtype=torch.float64).load_state_dict(saved.state_dict())  # no room


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"capacity: expected at least 1, got 0"):
        ReplayBuffer(0, 2, 1)
    with pytest.raises(ValueError, match=r"dtype: expected a floating-point type"):
        ReplayBuffer(1, 2, 1, dtype=torch.int64)
    buffer = ReplayBuffer(4, 2, 1)
    g = generator(0)
    with pytest.raises(ValueError, match="collect first"):
        buffer.sample(1, generator=g)
    batch = batch_of([1], ["step"])[0]
    with pytest.raises(ValueError, match=r"batch.obs: expected shape \[1, 2\], got \[1, 3\]"):
        buffer.extend(batch._replace(obs=torch.zeros(1, 3)))
    with pytest.raises(ValueError, match=r"batch.reward: expected shape \[1\], got \[1, 1\]"):
        buffer.extend(batch._replace(reward=torch.zeros(1, 1)))
    with pytest.raises(ValueError, match=r"valid: expected shape \[1\]"):
        buffer.extend(batch, torch.ones(2, dtype=torch.bool))
    assert len(buffer) == 0
    buffer.extend(batch)
    for arguments in ({"n_step": 0}, {"discount": 1.1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            buffer.sample(**{"batch_size": 1, "generator": g, **arguments})
    with pytest.raises(ValueError, match="length"):
        buffer.sample_sequences(1, 0, generator=g)
    with pytest.raises(ValueError, match=r"fraction: expected a number in \[0, 1\), got 1"):
        buffer.split(1.0, generator=g)
    with pytest.raises(ValueError, match="num_envs"):
        ReplayBuffer(4, 2, 1, num_envs=2).extend_rows(batch)
    for _ in range(5):
        buffer.extend(batch)
    with pytest.raises(ValueError, match="capacity it was saved with"):
        ReplayBuffer(5, 2, 1).load_state_dict(buffer.state_dict())
    with pytest.raises(ValueError, match="arguments it was saved with"):
        ReplayBuffer(4, 3, 1).load_state_dict(buffer.state_dict())
