"""One file a task=: its settings, its checks, its report. Imports from all other folders."""
