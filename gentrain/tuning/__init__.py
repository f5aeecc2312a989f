"""A search over settings with Optuna, for task=tune. Imports training, sweeps and what is below them."""
