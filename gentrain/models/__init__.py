"""The families' networks: losses, figures, sampling, and what they owe to the rest (interface.py).

Imports data, runtime and config.
"""
