"""Pins what the project stands on, with the hashes of its files: `make lock`. Pins that still fit are kept.

service.lock is what a server needs, training.lock adds what training needs, dev.lock what tests and linters need, and gpu.lock
is service.lock with TensorFlow for NVIDIA GPUs. score.lock is what scoring files needs, and ray.lock adds Ray. They hold for
every Python and system that the project supports.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = {
    "service": ["service"],
    "training": ["service", "score", "training"],
    "dev": ["service", "score", "training", "dev"],
    "gpu": ["service", "gpu"],
    "score": ["score"],
    "ray": ["score", "ray"],
}
INCLUDES = {"training": "service", "dev": "training", "gpu": "service", "ray": "score"}


def requirements(extras: list[str]) -> list[str]:
    """What these extras, the client and the build need; not our own names."""
    root = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    client = tomllib.loads((HERE.parent / "protos" / "pyproject.toml").read_text())
    needed = [*root["build-system"]["requires"], *client["project"]["dependencies"]]
    for extra in extras:
        needed += root["project"]["optional-dependencies"][extra]
    return [line for line in needed if not line.startswith("headline-popularity")]


def resolve(extras: list[str], pinned: str) -> dict[str, str]:
    """The pins, each with its hashes, by name; as far as they fit those of `pinned`, a list of requirements."""
    constraints = HERE / ".pinned.txt"
    constraints.write_text(pinned)
    options = "--universal --generate-hashes --no-header --no-annotate --python-version 3.11 --quiet"
    try:
        done = subprocess.run(
            [Path(sys.executable).with_name("uv"), "pip", "compile", *options.split(), "--constraint", constraints, "-"],
            input="\n".join(requirements(extras)),
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"uv cannot resolve {', '.join(extras)}: {error.stderr}") from None
    finally:
        constraints.unlink()
    blocks = re.split(r"^(?=\w)", done.stdout, flags=re.MULTILINE)
    return {re.split(r"[=; ]", block, maxsplit=1)[0]: block for block in blocks if block}


def main() -> None:
    """Write the files. With --upgrade pins are not kept."""
    pinned = ""
    if "--upgrade" not in sys.argv[1:]:
        locks = "".join(path.read_text() for path in HERE.glob("*.lock"))
        pinned = "\n".join(sorted(set(re.findall(r"^(\w[^\\\n]*?) *\\?$", locks, re.MULTILINE))))
    everything = resolve(["service", "training", "dev"], pinned)  # first, so that the other locks agree with it
    pinned = "\n".join(block.partition("\\")[0].strip() for block in everything.values())
    found = {name: everything if name == "dev" else resolve(extras, pinned) for name, extras in EXTRAS.items()}
    for name, pins in found.items():
        below = INCLUDES.get(name)
        own = [block for package, block in pins.items() if not below or found[below].get(package) != block]
        include = f"-r {below}.lock\n" if below else ""
        text = f"# Made by `make lock`. To install: pip install --require-hashes -r requirements/{name}.lock\n{include}"
        (HERE / f"{name}.lock").write_text(text + "".join(own))


if __name__ == "__main__":
    main()
