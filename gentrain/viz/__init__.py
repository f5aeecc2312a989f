"""Grids of images and plots of curves, for people to look at. Imports nothing of gentrain."""
