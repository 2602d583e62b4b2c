"""Model-based reinforcement learning: models, data, learners, pipelines and experiments."""
