"""Whether the rows of a dataset are what a task says: what `mbrl dataset verify` and training with a model ask."""

import numpy as np
import torch

from mbrl.data.datasets import Dataset, DatasetError
from mbrl.data.formats import pieces
from mbrl.envs.tasks import Disagreement, Task, verify

PART = 100_000
"""Rows that are compared at once."""
TOLERANCE = {4: 2e-2, 8: 1e-4}
"""Of rewards, by bytes of a number."""


def check_agreement(data: Dataset, task: Task) -> None:
    """Compare a task's reward and termination with every row.

    Within `TOLERANCE`, and in what positions lose by being rounded to the type of the dataset's observations.

    Raises:
        DatasetError: they disagree; the message names the first episode and row, and shows the transition.
    """
    stored = data.observations.dtype
    tolerance, rounding = TOLERANCE.get(stored.itemsize, TOLERANCE[4]), float(np.finfo(stored).eps)
    for first, last in pieces(data.lengths, PART):
        start, end = int(data.ends[first] - data.lengths[first] + 1), int(data.ends[last - 1] + 1)
        rows = data.transitions(dtype=torch.float64, rows=slice(start, end))
        try:
            verify(task, rows, tolerance=tolerance, rounding=rounding)
        except Disagreement as error:
            row = start + error.row
            raise DatasetError(f"{data.place(row)}: {error.told(row, len(data))}") from None
