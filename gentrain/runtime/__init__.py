"""What a process runs on: device, random numbers, files, signals, other processes, the console.

Imports config.
"""
