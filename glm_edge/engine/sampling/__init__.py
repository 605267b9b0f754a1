"""From logits to the next token: bias and penalties, constraints, temperature and cuts, log probabilities."""
