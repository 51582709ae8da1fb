"""Speed: the host's buffer and dynamics with the same results in less time."""
