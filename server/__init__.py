"""What runs on the server's side of a federation."""
