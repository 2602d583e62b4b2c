"""Settings that all tests share."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # before anything imports mujoco

import torch

# Small networks: a second thread on a busy core costs more than it gives.
torch.set_num_threads(1)
