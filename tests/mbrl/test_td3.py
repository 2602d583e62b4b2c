"""TD3 and DDPG."""

import torch

from mbrl.learners.ddpg import DDPGConfig, DDPGLearner
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.learners.testing import check_learner


def test_td3_keeps_the_laws_of_learners():
    learner = TD3Learner(3, (-2.0, -2.0), (1.0, 1.0), TD3Config(hidden=(16, 16)), torch.float64)
    check_learner(learner, 3, 2, low=-2.0, high=1.0)


def test_ddpg_keeps_the_laws_of_learners():
    learner = DDPGLearner(3, (-2.0, -2.0), (1.0, 1.0), DDPGConfig(hidden=(16, 16)), torch.float64)
    check_learner(learner, 3, 2, low=-2.0, high=1.0)
