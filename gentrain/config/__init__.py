"""From text to checked settings: composes, names, types, ranges. Imports errors alone, and no torch."""
