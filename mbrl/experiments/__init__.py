"""Run directories, checkpoints, evaluation, pictures: what stays of an experiment."""
