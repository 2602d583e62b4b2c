"""A replay buffer on any device: a ring of time slots, `[time, environment, ...]`, allocated once.

Every slot carries the id of its episode, -1 where it holds nothing (a diverged step, an automatic reset). A window of
consecutive steps goes on while the id stays the same, which settles terminations, truncations, holes and the seam of
the ring alike.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mbrl.data.holdout import split_episodes
from mbrl.types import TransitionBatch

_HOLE = -1
PACKED = 65_536
"""Unordered rows that are brought into the buffer's form at once: in it they take as much memory again."""
_FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "log_prob")


def buffer_bytes(capacity: int, obs_dim: int, action_dim: int | None, dtype: torch.dtype = torch.float32) -> int:
    """What a `ReplayBuffer` with these arguments takes, in bytes."""
    width = 2 * obs_dim + (action_dim or 1) + 4  # reward, two flags, log-probability
    return capacity * (width * dtype.itemsize + torch.int64.itemsize)  # and the episode


class ReplayBuffer:
    """Transitions of `num_envs` environments that step together; the oldest give way to the newest.

    Args:
        capacity: how many transitions are kept; rounded up to a multiple of `num_envs`.
        obs_dim: length of an observation.
        action_dim: length of an action; None: actions are discrete, int64 of shape [rows].
        num_envs: rows of every `extend`.
        device: where the transitions live; samples live there too.
        dtype: of everything but the two flags.

    Raises:
        ValueError: a size is below 1, or `dtype` is not a floating-point type.
    """

    def __init__(
        self,
        capacity: int,
        obs_dim: int,
        action_dim: int | None,
        *,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = {"capacity": capacity, "obs_dim": obs_dim, "num_envs": num_envs}
        if action_dim is not None:
            sizes["action_dim"] = action_dim
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype: expected a floating-point type such as torch.float32, got {dtype}")
        self.obs_dim, self.action_dim, self.num_envs = obs_dim, action_dim, num_envs
        self.device, self.dtype = torch.device(device), dtype
        self._slots = -(-capacity // num_envs)
        shape = (self._slots, num_envs)
        widths = {"obs": obs_dim, "next_obs": obs_dim}
        if action_dim is not None:
            widths["action"] = action_dim
        self._shapes = {name: (widths[name],) if name in widths else () for name in _FIELDS}
        self._widths = [widths.get(name, 1) for name in _FIELDS]
        # All fields of a transition lie side by side, flags as 0 and 1: one copy stores a step, one gather samples.
        self._store = torch.zeros((*shape, sum(self._widths)), dtype=dtype, device=self.device)
        # On the CPU a step is written through numpy, which takes a tenth of the time of one write by torch.
        shared = self.device.type == "cpu" and dtype in (torch.float32, torch.float64)
        parts = zip(self._store.split(self._widths, -1), self._shapes.values(), strict=True)
        self._arrays = [(x if wide else x[..., 0]).numpy() for x, wide in parts] if shared else None
        self._episode = torch.full(shape, _HOLE, dtype=torch.int64, device=self.device)
        self._current = torch.arange(num_envs, device=self.device)  # the episode that each environment is in
        self._next_episode = num_envs
        self._head = 0  # the slot to be written next
        self._filled = 0
        self._holes = 0
        self._powers: dict[tuple[float, int], Tensor] = {}
        self._valid_slots: Tensor | None = None  # positions of valid rows, oldest first; None: to be found again

    @property
    def capacity(self) -> int:
        """How many transitions are kept at most."""
        return self._slots * self.num_envs

    def __len__(self) -> int:
        """How many transitions there are; holes don't count."""
        return self._filled * self.num_envs - self._holes

    def extend(self, batch: TransitionBatch, valid: Bool[Tensor, "envs"] | None = None) -> None:
        """Add one step of every environment, in the environments' order.

        Args:
            batch: one row an environment; `discount` is not kept: `sample` makes it.
            valid: False where the row is no transition. It becomes a hole, and the episode is over.

        Raises:
            ValueError: a shape does not fit the buffer.
        """
        self._check(batch, self.num_envs)
        if valid is not None and valid.shape != (self.num_envs,):
            raise ValueError(f"valid: expected shape [{self.num_envs}], one an environment, got {list(valid.shape)}")
        whole = valid is None or bool(valid.all())
        slot = self._head
        if self._filled == self._slots and self._holes:
            self._holes -= int((self._episode[slot] == _HOLE).sum())
        if self._arrays is not None and not batch.obs.is_cuda:
            for array, name in zip(self._arrays, _FIELDS, strict=True):
                array[slot] = getattr(batch, name).detach().numpy()
        else:
            self._store[slot] = self._pack(batch)
        over = batch.terminated | batch.truncated
        if whole:
            self._episode[slot] = self._current
        else:
            assert valid is not None
            self._episode[slot] = torch.where(valid.to(self.device), self._current, _HOLE)
            over = over | ~valid.to(over.device)
            self._holes += int((~valid).sum())
        if over.any():
            self._renew(over)
        self._moved(1)

    def extend_rows(self, batch: TransitionBatch, lengths: Int[Tensor, "episodes"] | None = None) -> None:
        """Add rows that are no step of the environments: those of a model, or of logged episodes.

        Args:
            batch: the rows.
            lengths: of whole episodes that they are, one after the other; None: rows that have no order, such as those
                of a model: each is an episode of its own.

        Raises:
            ValueError: a shape does not fit, lengths don't add up to the rows, or the buffer has more than one
                environment.
        """
        if self.num_envs != 1:
            raise ValueError(
                f"num_envs: expected a buffer with num_envs=1 for unordered rows, got {self.num_envs}; keep them in a "
                "buffer of their own"
            )
        rows = batch.obs.shape[0]
        self._check(batch, rows)
        if lengths is not None and (int(lengths.sum()) != rows or bool((lengths < 1).any())):
            raise ValueError(f"lengths: expected numbers from 1 that add up to {rows} rows, got {lengths.tolist()}")
        kept = min(rows, self._slots)
        slots = (self._head + torch.arange(rows - kept, rows, device=self.device)) % self._slots
        evicted = max(0, self._filled + kept - self._slots)
        if self._holes and evicted:
            oldest = (self._head - self._filled + torch.arange(evicted, device=self.device)) % self._slots
            self._holes -= int((self._episode[oldest, 0] == _HOLE).sum())
        columns = [x[rows - kept :].split(PACKED) for x in batch]
        for at, *part in zip(slots.split(PACKED), *columns, strict=True):
            self._store[at, 0] = self._pack(TransitionBatch(*part)).to(self._store)
        # One id is left out so that the episode under way does not go on behind these rows.
        first, count = self._next_episode, kept if lengths is None else len(lengths)
        ids = torch.arange(first, first + count, device=self.device)
        self._episode[slots, 0] = ids if lengths is None else ids.repeat_interleave(lengths.to(ids))[rows - kept :]
        self._current.fill_(first + count)
        self._next_episode = first + count + 1
        self._moved(rows)

    def end_episodes(self) -> None:
        """What is added next belongs to new episodes: the environments were reset, or are others."""
        self._renew(torch.ones(self.num_envs, dtype=torch.bool))

    def sample(
        self, batch_size: int, *, generator: torch.Generator, discount: float = 0.99, n_step: int = 1
    ) -> TransitionBatch:
        """Transitions drawn uniformly, with replacement: [batch_size, ...] on the buffer's device.

        With `n_step` > 1 a row is k = n_step transitions in one: the reward is sum_{i<k} discount^i r_i, `next_obs` and
        the flags are those of the last, and `discount` is discount^k (1 - terminated). k is smaller where the episode
        ends, is cut, or goes on beyond the newest row: those bootstrap with discount^k unless it terminated.

        Raises:
            ValueError: the buffer is empty, a number is out of range, or `generator` is on another device.
        """
        if n_step < 1:
            raise ValueError(f"n_step: expected at least 1, got {n_step}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {discount}")
        position = self._draw(batch_size, generator)
        first = self._rows(position)
        if n_step == 1:
            return first._replace(discount=discount * first.discount)
        window, mask = self._windows(position, n_step)  # [n_step, batch]
        powers = self._discounts(discount, n_step)
        reward = torch.where(mask, self._rows(window).reward, 0.0)  # holes hold anything
        reward = (reward * powers[:n_step, None]).sum(0)
        steps = mask.sum(0)
        last = self._rows(window.gather(0, (steps - 1)[None])[0])
        return TransitionBatch(
            first.obs,
            first.action,
            reward,
            *last[3:6],  # next_obs, terminated, truncated
            powers[steps] * last.discount,
            first.log_prob,
        )

    def sample_sequences(
        self, batch_size: int, length: int, *, generator: torch.Generator
    ) -> tuple[TransitionBatch, Bool[Tensor, "length batch"]]:
        """Stretches of consecutive steps of one episode: tensors are [length, batch_size, ...].

        Every transition is equally likely to be a start. The mask is True up to the end of the episode or the newest
        row; behind it the last transition is repeated. `discount` is 1 - terminated.

        Raises:
            ValueError: the buffer is empty, a size is below 1, or `generator` is on another device.
        """
        if length < 1:
            raise ValueError(f"length: expected at least 1, got {length}")
        window, mask = self._windows(self._draw(batch_size, generator), length)
        last = window.gather(0, (mask.sum(0) - 1)[None])
        return self._rows(torch.where(mask, window, last)), mask

    def all(self) -> TransitionBatch:
        """Every transition, the oldest first, those of one moment by environment; discount = 1 - terminated."""
        return self._rows(self._valid())

    def episode_ids(self) -> Int[Tensor, "rows"]:
        """The episode of each row of `all()`: rows with the same id are one episode, in order of time."""
        return self._episode.view(-1)[self._index(self._valid())]

    def split(
        self, fraction: float, *, generator: torch.Generator
    ) -> tuple[Int[Tensor, "train"], Int[Tensor, "holdout"]]:
        """Rows of `all()` for training, and whole episodes held out, but none of those that the environments were in
        last: see `split_episodes`."""
        return split_episodes(self.episode_ids(), fraction, generator=generator, newest=self.num_envs)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a continuation needs; only the slots in use.

        The tensors share the buffer's memory, as a copy of a full buffer may not fit beside it: clone what is to stay
        as it is while the buffer goes on.
        """
        return {
            "transitions": self._store[: self._filled],
            "episode": self._episode[: self._filled],
            "current": self._current,
            "cursor": torch.tensor([self._slots, self._head, self._filled, self._holes, self._next_episode]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned, in a buffer made with the same arguments (the device may differ).

        The capacity may differ too, as long as nothing has given way and everything finds room: a run can be prolonged.

        Raises:
            ValueError: a tensor is missing, or has another shape or type; the buffer is left as it was.
        """
        mine = {"transitions": self._store, "episode": self._episode, "current": self._current}
        if set(state) != {*mine, "cursor"}:
            raise ValueError(f"state: expected the tensors {sorted({*mine, 'cursor'})}, got {sorted(state)}")
        slots, head, filled, holes, next_episode = state["cursor"].tolist()
        if slots != self._slots:
            if head != filled % slots or filled > self._slots:
                raise ValueError(
                    f"state: expected {self.capacity} transitions of capacity, got {slots * self.num_envs}, which have "
                    "begun to give way or find no room; make the buffer with the capacity it was saved with"
                )
            head = filled % self._slots
        for name, store in mine.items():
            shape = store.shape if name == "current" else (filled, *store.shape[1:])
            if state[name].shape != shape or state[name].dtype != store.dtype:
                raise ValueError(
                    f"state[{name!r}]: expected {store.dtype} of shape {list(shape)}, got {state[name].dtype} of shape "
                    f"{list(state[name].shape)}; make the buffer with the arguments it was saved with"
                )
        for name, store in mine.items():
            store[: len(state[name])] = state[name].to(self.device)
        self._head, self._filled, self._holes, self._next_episode = head, filled, holes, next_episode
        self._valid_slots = None

    # Positions: row-major [age, environment], the oldest slot in use first; storage indices: [slot, environment].

    def _index(self, position: Tensor) -> Tensor:
        if self._filled < self._slots:
            return position
        return (position + self._head * self.num_envs) % (self._slots * self.num_envs)

    def _valid(self) -> Tensor:
        if self._valid_slots is None:
            position = torch.arange(self._filled * self.num_envs, device=self.device)
            if self._holes:
                position = position[self._episode.view(-1)[self._index(position)] != _HOLE]
            self._valid_slots = position
        return self._valid_slots

    def _draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if len(self) == 0:
            raise ValueError("sample: expected a buffer with transitions, got an empty one; collect first")
        if generator.device.type != self.device.type:
            raise ValueError(f"generator: expected one on {self.device}, where the buffer is, got {generator.device}")
        drawn = torch.randint(len(self), (batch_size,), generator=generator, device=self.device)
        return self._valid()[drawn] if self._holes else drawn

    def _windows(self, position: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Positions [length, batch] of consecutive steps, and a mask of those that are still the same episode."""
        steps = torch.arange(length, device=self.device)[:, None]
        window = position + steps * self.num_envs
        inside = window < self._filled * self.num_envs
        window = torch.where(inside, window, position)
        episode = self._episode.view(-1)[self._index(window)]
        return window, inside & (episode == episode[:1])

    def _rows(self, position: Tensor) -> TransitionBatch:
        index = self._index(position)
        rows = self._store.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, sum(self._widths))
        parts = rows.split(self._widths, -1)
        fields = {n: x if self._shapes[n] else x[..., 0] for n, x in zip(_FIELDS, parts, strict=True)}
        discount = 1 - fields["terminated"]
        flags = {name: fields[name] != 0 for name in ("terminated", "truncated")}
        if self.action_dim is None:
            fields["action"] = fields["action"].long()
        return TransitionBatch(**{**fields, **flags, "discount": discount})

    def _discounts(self, discount: float, n_step: int) -> Float[Tensor, "powers"]:
        """discount^0 to discount^n_step; kept, as every copy to a GPU makes the host wait."""
        if (discount, n_step) not in self._powers:
            powers = torch.tensor([discount**i for i in range(n_step + 1)], dtype=torch.float64)
            self._powers = {(discount, n_step): powers.to(self.dtype).to(self.device)}
        return self._powers[discount, n_step]

    def _moved(self, slots: int) -> None:
        self._head = (self._head + slots) % self._slots
        self._filled = min(self._filled + slots, self._slots)
        self._valid_slots = None

    def _renew(self, over: Tensor) -> None:
        """New ids for the environments whose episode is over."""
        count = int(over.sum())
        new = torch.arange(self._next_episode, self._next_episode + count, device=self.device)
        self._current[over.to(self.device)] = new
        self._next_episode += count

    def _pack(self, batch: TransitionBatch) -> Tensor:
        """The fields side by side: [rows, width]."""
        return torch.cat([getattr(batch, name).reshape(len(batch.obs), -1) for name in _FIELDS], -1)

    def _check(self, batch: TransitionBatch, rows: int) -> None:
        for name, shape in self._shapes.items():
            got = getattr(batch, name).shape
            if got != (rows, *shape):
                raise ValueError(f"batch.{name}: expected shape {[rows, *shape]}, got {list(got)}")
