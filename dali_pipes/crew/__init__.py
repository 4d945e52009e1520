"""Several processes of this machine that fill one cache: what one process's interpreter lock would hold back."""
