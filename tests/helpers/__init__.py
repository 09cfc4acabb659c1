"""What several test modules use: servers, made checkpoints, small archives."""
