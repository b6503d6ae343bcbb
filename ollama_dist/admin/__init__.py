"""What operators see and turn: behind the admin token."""
