"""Planners that score sampled action sequences."""
