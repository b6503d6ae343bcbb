"""What lies on this machine as files: found, read, checked, given to others; never written."""
