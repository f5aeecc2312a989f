"""A run's directory: its files written and read, its curves, and a trained run to look at.

Imports models, data, viz, runtime and config.
"""
