"""A laptop that joins a federation as if it were a phone."""
