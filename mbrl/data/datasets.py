"""Logged data: whole episodes with every observation, kept as the bits that were stored.

An episode of T steps has T + 1 observations o_0 ... o_T: row t is (o_t, a_t, r_t, o_{t+1}). So no row ever leads to
the next episode's first observation. Where an episode ended by itself its last row is `terminated`; where it was cut,
by a time limit or because collection stopped, it is `truncated`, and values go on behind it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mbrl.data.buffer import PACKED, ReplayBuffer
from mbrl.data.dataset_checks import ROWS, check_structure
from mbrl.data.dataset_info import DatasetError, DatasetInfo, plain_id
from mbrl.types import TransitionBatch

__all__ = ["Dataset", "DatasetError", "DatasetInfo", "dataset_buffer", "from_buffer", "load_dataset", "save_dataset"]
ARRAYS = ("observations", *ROWS, "lengths")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes, one after the other.

    Raises:
        DatasetError: shapes don't fit each other, there is no row, or an episode goes on behind its end. What else can
            be wrong with data is looked for by `mbrl.data.check_dataset`.
    """

    observations: np.ndarray
    """[rows + episodes, obs]: T + 1 an episode."""
    actions: np.ndarray
    """[rows, act]; where they are discrete int64 [rows]."""
    rewards: np.ndarray
    """[rows]."""
    terminated: np.ndarray
    """Bool [rows]: the episode ended by itself. Only an episode's last row may be True."""
    truncated: np.ndarray
    """Bool [rows]: the episode was cut behind this row. Likewise."""
    log_probs: np.ndarray
    """[rows]: log-probability of the action under the policy that chose it; NaN where unknown."""
    lengths: np.ndarray
    """int64 [episodes]: rows of each."""
    info: DatasetInfo = field(default_factory=DatasetInfo)

    def __post_init__(self) -> None:
        for name in ARRAYS:
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        check_structure(self)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rewards)

    @property
    def episodes(self) -> int:
        return len(self.lengths)

    @property
    def obs_dim(self) -> int:
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int | None:
        """Length of an action; None where they are discrete."""
        return None if self.actions.ndim == 1 else int(self.actions.shape[1])

    @property
    def ends(self) -> np.ndarray:
        """int64 [episodes]: the last row of each."""
        return np.cumsum(self.lengths) - 1

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        episode = int(np.searchsorted(self.ends, row))
        first = int(self.ends[episode] - self.lengths[episode] + 1)
        return f"episode {episode}, row {row} (step {row - first} of {self.lengths[episode]})"

    def transitions(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: slice | np.ndarray | None = None,
    ) -> TransitionBatch:
        """Rows in their order: all, a slice, or those with the numbers given; `discount` is 1 - terminated."""
        span = slice(None) if rows is None else rows
        chosen = np.arange(*span.indices(len(self))) if isinstance(span, slice) else span
        at = chosen + np.searchsorted(self.ends, chosen)  # every episode before it has one observation more than rows

        def put(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(array)  # array: a copy, as the indices are an array
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        terminated = put(self.terminated[chosen])
        return TransitionBatch(
            put(self.observations[at]),
            put(self.actions[chosen]),
            put(self.rewards[chosen]),
            put(self.observations[at + 1]),
            terminated,
            put(self.truncated[chosen]),
            1 - terminated.to(dtype),
            put(self.log_probs[chosen]),
        )

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        discount: float = 0.99,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TransitionBatch:
        """Rows drawn uniformly, with replacement: those that `dataset_buffer(dataset).sample` draws on the CPU.

        For mapped datasets that fit no buffer; `discount` is as in `ReplayBuffer.sample`.
        """
        drawn = torch.randint(len(self), (batch_size,), generator=generator, device=generator.device)
        batch = self.transitions(device=device, dtype=dtype, rows=drawn.cpu().numpy())
        return batch._replace(discount=discount * batch.discount)

    def episode_ids(self) -> Int[Tensor, "rows"]:
        """The number of each row's episode, for `split_episodes` say."""
        return torch.from_numpy(np.repeat(np.arange(self.episodes), self.lengths))

    def returns(self) -> np.ndarray:
        """Undiscounted sum of rewards of each episode: float64 [episodes]."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.add.reduceat(self.rewards.astype(np.float64), starts)

    def hash(self) -> str:
        """SHA-256 of the arrays, their types and shapes. `info` has no part in it."""
        digest = hashlib.sha256()
        for name in ARRAYS:
            array = getattr(self, name)
            digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def select(self, episodes: Sequence[int] | np.ndarray | Tensor) -> "Dataset":
        """Some episodes, in the order given.

        Raises:
            ValueError: there is no such episode, or none was chosen.
        """
        chosen = np.asarray(episodes, dtype=np.int64)
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= self.episodes:
            raise ValueError(f"episodes: expected numbers from 0 to {self.episodes - 1}, got {chosen.tolist()}")
        first = (np.cumsum(self.lengths) - self.lengths)[chosen]
        lengths = self.lengths[chosen]
        rows = np.concatenate([np.arange(a, a + n) for a, n in zip(first, lengths, strict=True)])
        seen = np.concatenate([np.arange(a, a + n + 1) for a, n in zip(first + chosen, lengths, strict=True)])
        parts = {name: getattr(self, name)[rows] for name in ROWS}
        return Dataset(self.observations[seen], **parts, lengths=lengths, info=self.info)

    def head(self, rows: int) -> "Dataset":
        """The first `rows` rows; an episode that goes on behind them is cut there.

        Raises:
            ValueError: there are not as many.
        """
        if not 1 <= rows <= len(self):
            raise ValueError(f"rows: expected a number from 1 to {len(self)}, got {rows}")
        episodes = int(np.searchsorted(self.ends, rows - 1)) + 1
        lengths = self.lengths[:episodes].copy()
        lengths[-1] -= int(lengths.sum()) - rows
        parts = {name: getattr(self, name)[:rows] for name in ROWS}
        parts["truncated"] = parts["truncated"].copy()
        parts["truncated"][-1] |= not parts["terminated"][-1]
        return Dataset(self.observations[: rows + episodes], **parts, lengths=lengths, info=self.info)

    def concatenate(self, *others: "Dataset", info: DatasetInfo | None = None) -> "Dataset":
        """The episodes of this dataset and behind them those of others, with `info` (None: this one's).

        Raises:
            ValueError: they have other observations, actions or types, or are of another environment, with other
                options or bounds, as far as both say.
        """
        for other in others:
            self._check_same(other.info)
            for name in ARRAYS:
                mine, its = getattr(self, name), getattr(other, name)
                if mine.dtype != its.dtype or mine.shape[1:] != its.shape[1:]:
                    raise ValueError(
                        f"others: expected {name} of {mine.dtype}, {list(mine.shape[1:])} each, got {its.dtype}, "
                        f"{list(its.shape[1:])}"
                    )
        arrays = {name: np.concatenate([getattr(one, name) for one in (self, *others)]) for name in ARRAYS}
        return Dataset(**arrays, info=info or self.info)

    def _check_same(self, info: DatasetInfo) -> None:
        names = ["action_low", "action_high", "actions"]
        if self.info.env_id is not None and info.env_id is not None:
            names += ["env_kwargs"] if plain_id(self.info.env_id) == plain_id(info.env_id) else ["env_id"]
        for name in names:
            mine, its = getattr(self.info, name), getattr(info, name)
            if mine != its and mine is not None and its is not None:
                raise ValueError(f"others: expected {name} {mine}, as this dataset has, got {its}")

    def spaces(self) -> tuple[gym.spaces.Box, gym.spaces.Box | gym.spaces.Discrete]:
        """Observation and action space, for agents. Where the bounds of actions are not known: those of the data."""
        observation = gym.spaces.Box(-np.inf, np.inf, (self.obs_dim,), self.observations.dtype.type)
        if self.action_dim is None:
            known = self.info.actions or int(self.actions.max()) + 1
            return observation, gym.spaces.Discrete(known)
        low, high = self.info.action_low, self.info.action_high
        if low is None or high is None:
            low, high = self.actions.min(0), self.actions.max(0)
        kind = self.actions.dtype.type
        return observation, gym.spaces.Box(np.asarray(low, kind), np.asarray(high, kind), dtype=kind)


def from_buffer(buffer: ReplayBuffer, info: DatasetInfo | None = None) -> Dataset:
    """What a buffer holds, by episode. The last row of one that neither ended nor was cut so far is `truncated`.

    Raises:
        DatasetError: the buffer is empty, or its episodes are not whole stretches of steps.
    """
    ids = buffer.episode_ids().cpu()
    if not len(ids):
        raise DatasetError("buffer: expected one with transitions, got an empty one; collect first")
    order = torch.argsort(ids, stable=True)  # the rows of environments that step together are mixed
    batch = [x.cpu()[order].numpy() for x in buffer.all()]
    obs, action, reward, next_obs, terminated, truncated, _, log_prob = batch
    _, lengths = np.unique(ids.numpy(), return_counts=True)
    ends = np.cumsum(lengths) - 1
    within = np.delete(np.arange(len(ids)), ends)
    jumps = (next_obs[within] != obs[within + 1]).any(-1)
    if jumps.any():
        raise DatasetError(
            f"buffer: expected each step of an episode to start where the one before led, not so behind row "
            f"{within[jumps.argmax()]} in the order of episodes"
        )
    truncated[ends] |= ~terminated[ends]
    observations = np.insert(obs, ends + 1, next_obs[ends], axis=0)
    return Dataset(
        observations, action, reward, terminated, truncated, log_prob, lengths.astype(np.int64), info or DatasetInfo()
    )


def dataset_buffer(
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    capacity: int | None = None,
    episodes: bool = False,
) -> ReplayBuffer:
    """A replay buffer with the rows of a dataset, with room for more behind them where `capacity` says so.

    Args:
        dataset: its rows keep their order.
        device: where the buffer lives.
        dtype: of everything but flags.
        capacity: of the buffer; None: as many as there are rows.
        episodes: whether the buffer is to know which rows are one episode, as where steps go on behind them; then
            `from_buffer` gives the dataset back, and a fit holds out whole episodes. Without, each row is one of its
            own, and a fit holds out rows.

    Raises:
        ValueError: `capacity` is below the number of rows.
    """
    capacity = len(dataset) if capacity is None else capacity
    if capacity < len(dataset):
        raise ValueError(f"capacity: expected room for the dataset's {len(dataset)} rows, got {capacity}")
    buffer = ReplayBuffer(capacity, dataset.obs_dim, dataset.action_dim, device=device, dtype=dtype)
    if episodes:
        from mbrl.data.formats import pieces

        starts, lengths = np.append(0, dataset.ends + 1), torch.from_numpy(dataset.lengths)
        for first, last in pieces(dataset.lengths, PACKED):
            rows = dataset.transitions(device=device, dtype=dtype, rows=slice(starts[first], starts[last]))
            buffer.extend_rows(rows, lengths[first:last])
        return buffer
    for start in range(0, len(dataset), PACKED):
        buffer.extend_rows(dataset.transitions(device=device, dtype=dtype, rows=slice(start, start + PACKED)))
    return buffer


def save_dataset(dataset: Dataset, path: str | Path) -> Path:
    """Write a dataset to a new file in the native format (HDF5 with a checksum), whole or not at all.

    Raises:
        ValueError: the file is there already, or h5py is not installed.
        OSError: the disk is full.
    """
    from mbrl.data.hdf5 import write

    return write(dataset, Path(path))


def load_dataset(path: str | Path, *, mapped: bool = False) -> Dataset:
    """Read a dataset: a native file, an HDF5 file in D4RL's layout, or the folder of a Minari dataset.

    The file is only read. Numbers that are not finite in float32, and actions out of bounds, are errors; for what may
    be wrong beyond that see `mbrl.data.check_dataset`, which `mbrl dataset verify` and `import` use.

    Args:
        path: file or folder.
        mapped: leave the arrays of a native file on the disk, and read what is asked for (`transitions`, `sample`), for
            data that do not fit memory.

    Raises:
        DatasetError: it is missing, damaged, or none of these, or has such numbers; or it is to be mapped and not a
            native file.
        ValueError: h5py is not installed.
    """
    from mbrl.data.formats import read

    return read(Path(path), mapped=mapped)
