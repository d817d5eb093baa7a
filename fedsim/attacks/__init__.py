"""Attacks on federations: what a curious server, or whoever holds the model, learns about the phones."""
