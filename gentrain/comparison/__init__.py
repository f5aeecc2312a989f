"""Runs side by side, for task=compare. Imports no torch; all that it reads may come from strangers."""
