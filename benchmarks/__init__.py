"""What is measured and how; each module prints a table."""
