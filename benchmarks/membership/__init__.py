"""What membership costs and how fast it is, with real processes, each on a host of its own."""
