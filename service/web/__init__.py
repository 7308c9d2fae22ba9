"""HTTP, for operators."""
