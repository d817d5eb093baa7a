"""Federated on-device training, simulated and real, in one system."""
