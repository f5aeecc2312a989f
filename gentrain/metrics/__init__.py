"""What a trained model is measured by: likelihood, distance to the truth, quality, memorisation."""
