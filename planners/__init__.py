"""Planners on models of any kind."""
