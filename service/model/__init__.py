"""The kernel: what a model version is on disk, and how it computes. Serving, training and scoring stand on it."""
