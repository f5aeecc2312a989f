"""One file a data=, and what several of them share. Imports data, anime and what is below them."""
