"""Local training: what one phone does in one round."""
