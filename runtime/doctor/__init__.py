"""What this device and a bundle on it are like, what is not as it should be, and what to do about that."""
