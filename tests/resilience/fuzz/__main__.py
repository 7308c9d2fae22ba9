"""The command `python -m tests.resilience.fuzz`."""

from harness import report
from tests.resilience.fuzz.run import main

if __name__ == "__main__":  # what it starts imports this too
    report.run(main)
