"""SAC, REDQ and DroQ."""

from dataclasses import replace

import pytest
import torch

from mbrl.learners.sac import DROQ, REDQ, SACConfig, SACLearner
from mbrl.learners.testing import check_learner

CONFIGS = {"sac": SACConfig(), "redq": REDQ, "droq": DROQ}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_keeps_the_laws_of_learners(config):
    learner = SACLearner(3, (-2.0, -2.0), (1.0, 1.0), replace(config, hidden=(16, 16)), torch.float64)
    check_learner(learner, 3, 2, low=-2.0, high=1.0)
