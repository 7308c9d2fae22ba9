"""The command `python -m benchmarks.fuzz`."""

from benchmarks.fuzz.run import main

if __name__ == "__main__":  # what it starts imports this too
    main()
