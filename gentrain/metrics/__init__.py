"""Figures of samples beside real pictures, and the features that they are measured in."""
