"""Data sets, and how clients share them out."""
