"""Real data: collection, the replay buffer, normalisation, and datasets of logged episodes."""

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collected, Collector, Episode, collect
from mbrl.data.dataset_checks import check_dataset
from mbrl.data.datasets import (
    Dataset,
    DatasetError,
    DatasetInfo,
    dataset_buffer,
    from_buffer,
    load_dataset,
    save_dataset,
)
from mbrl.data.normalizer import Normalizer
from mbrl.data.policies import RandomPolicy

__all__ = [
    "Collected",
    "Collector",
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "Episode",
    "Normalizer",
    "RandomPolicy",
    "ReplayBuffer",
    "check_dataset",
    "collect",
    "dataset_buffer",
    "from_buffer",
    "load_dataset",
    "save_dataset",
]
