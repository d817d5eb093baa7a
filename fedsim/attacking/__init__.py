"""Attacks on runs that have finished: each reads a run folder, plays the attacker, and writes what it learnt there."""
