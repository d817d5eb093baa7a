"""What runs on the clients' side of a federation."""
