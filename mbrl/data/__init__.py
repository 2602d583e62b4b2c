"""Real data: collection, the replay buffer, normalisation."""

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collected, Collector, Episode, collect
from mbrl.data.normalizer import Normalizer
from mbrl.data.policies import RandomPolicy

__all__ = ["Collected", "Collector", "Episode", "Normalizer", "RandomPolicy", "ReplayBuffer", "collect"]
