"""Updatable Core ML models: read, built, checked, patched and run without a Mac."""
