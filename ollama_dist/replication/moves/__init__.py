"""What operators and policies have moved: plans, promises, operations and their driving."""
