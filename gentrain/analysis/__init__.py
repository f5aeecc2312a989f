"""What trained models have learned: latents, features with few labels, completions.

Imports runs, models, data and what is below them.
"""
