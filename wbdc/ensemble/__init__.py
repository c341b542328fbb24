"""Several runs, one answer: blend weights and what they are worth."""
