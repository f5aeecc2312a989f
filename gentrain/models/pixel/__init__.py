"""The autoregressive families: one fast, exact path for masked convolutions and recurrent nets."""
