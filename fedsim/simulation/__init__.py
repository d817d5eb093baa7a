"""Simulated phones behind Flower's Grid."""
