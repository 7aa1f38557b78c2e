"""Training: the loop, what it starts from, what it writes, and how it is taken up again."""
