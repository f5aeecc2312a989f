"""What a trained model is measured by: likelihood, distance to the truth, quality, memorisation.

Imports runs, models, data and what is below them.
"""
