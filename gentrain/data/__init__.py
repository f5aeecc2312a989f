"""From a data set by name to splits and batches: one packed uint8 array, made once, in a cache."""
