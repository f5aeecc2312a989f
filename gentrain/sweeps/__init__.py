"""Sweeps (`gentrain -m`): many jobs in one folder, gone on with by the same command.

Imports comparison's words, runs, runtime and config.
"""
