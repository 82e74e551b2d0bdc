"""Named numpy arrays, the common tongue of both frameworks: which there are, how they start, how they are stored."""
