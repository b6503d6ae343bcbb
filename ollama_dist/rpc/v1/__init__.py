"""Version 1 of what members say to each other."""
