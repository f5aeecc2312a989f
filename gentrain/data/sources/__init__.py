"""One file a data=, and what several of them share."""
