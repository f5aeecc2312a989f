"""From a data set by name to splits and batches: one packed uint8 array, made once, in a cache.

Imports runtime, config and its own reading/; its sources/ are found by name.
"""
