"""The autoregressive families: one exact, fast path for masked convolutions and recurrent nets.

Imports as models does.
"""
