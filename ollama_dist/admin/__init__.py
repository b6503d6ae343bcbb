"""What operators see of a node and have it do."""
