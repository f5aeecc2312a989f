"""What trained models have learned: latents, features with few labels, completions."""
