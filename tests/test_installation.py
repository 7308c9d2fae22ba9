"""What the two distributions bring, and that nobody else's are taken for them."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

from harness.process import ROOT, environment

ROOT_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT_PROJECT = tomllib.loads((ROOT / "protos" / "pyproject.toml").read_text())["project"]
OURS = {"headline-popularity", "headline-popularity-client"}
EXTRAS = {
    "service": ["service"],
    "training": ["service", "score", "training"],
    "dev": ["service", "score", "training", "dev"],
    "gpu": ["gpu"],
    "score": ["score"],
    "ray": ["score", "ray"],
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The product's files; pip leaves more beside those that it installs."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    for name in ("protos", "service", "training"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    return directory


def pip(directory, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        cwd=directory,
        env=environment() | {"PYTHONPATH": "", "PIP_CONFIG_FILE": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(checkout):
    """Both wheels, by distribution."""
    pip(checkout, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", "./protos", ".")
    return {path.name.partition("-0")[0].replace("_", "-"): zipfile.ZipFile(path) for path in (checkout / "wheels").iterdir()}


def packages(wheel):
    return {name.partition("/")[0] for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}


def metadata(wheel, file):
    [name] = [name for name in wheel.namelist() if name.endswith(f".dist-info/{file}")]
    return wheel.read(name).decode()


def test_the_client_brings_one_package_and_the_command(wheels):
    client = wheels["headline-popularity-client"]
    assert packages(client) == {"headlines"}
    assert "headlines = headlines.__main__:main" in metadata(client, "entry_points.txt")
    needed = re.findall(r"^Requires-Dist: ([\w-]+)", metadata(client, "METADATA"), re.MULTILINE)
    assert sorted(needed) == ["grpcio", "grpcio-status", "protobuf"]
    assert {"headlines/py.typed", "headlines/v1/popularity.proto", "headlines/v1/popularity_pb2.pyi"} <= set(client.namelist())


def test_the_other_brings_server_and_training_and_their_commands_alone(wheels):
    root = wheels["headline-popularity"]
    assert packages(root) == {"service", "training"}
    assert "training/report.html" in root.namelist()
    assert "[console_scripts]" not in metadata(root, "entry_points.txt")
    modules = {path.relative_to(ROOT).as_posix() for name in ("service", "training") for path in (ROOT / name).rglob("*.py")}
    assert modules <= set(root.namelist())


def test_versions_agree():
    assert ROOT_PROJECT["version"] == CLIENT_PROJECT["version"]
    assert ROOT_PROJECT["dependencies"] == [f"headline-popularity-client=={CLIENT_PROJECT['version']}"]
    image = (ROOT / "Dockerfile").read_text()
    assert f'org.opencontainers.image.version="{ROOT_PROJECT["version"]}"' in image


def decoy(index, name, version):
    """Put an empty wheel into a local index."""
    stem = f"{name.replace('-', '_')}-{version}"
    directory = index / re.sub(r"[-_.]+", "-", name).lower()
    directory.mkdir()
    (directory / "index.html").write_text(f'<a href="{stem}-py3-none-any.whl">{stem}-py3-none-any.whl</a>')
    with zipfile.ZipFile(directory / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.mark.parametrize("targets", [["./protos"], ["./protos", ".[service]"], ["./protos", ".[training]"]], ids=" ".join)
def test_a_stranger_who_owns_our_names_in_an_index_is_not_installed(checkout, index, targets):
    sources = installed_from(checkout, index, targets)
    assert OURS & sources.keys() == (OURS if len(targets) > 1 else {"headline-popularity-client"})
    for name in OURS & sources.keys():
        assert sources[name].startswith(checkout.as_uri())
    assert sources["grpcio"].startswith(index.as_uri())


def test_but_one_of_the_two_alone_would_be_looked_up(checkout, index):
    """Or the test above could not fail."""
    sources = installed_from(checkout, index, [".[service]"])
    assert sources["headline-popularity-client"].startswith(index.as_uri())


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Of empty wheels: all that the two need, and others under their own names."""
    index = tmp_path_factory.mktemp("index")
    for name in OURS:
        decoy(index, name, ROOT_PROJECT["version"])
    wanted = [Requirement(line) for lines in ROOT_PROJECT["optional-dependencies"].values() for line in lines]
    wanted += map(Requirement, CLIENT_PROJECT["dependencies"])
    pins = pinned("dev") | pinned("gpu") | pinned("ray")
    for name in {requirement.name for requirement in wanted} - OURS - {"atheris"}:
        decoy(index, name, pins[re.sub(r"[-_.]+", "-", name).lower()])
    return index


def installed_from(checkout, index, targets):
    """Where pip would take each distribution from."""
    report = json.loads(
        pip(
            checkout,
            *("install", "--dry-run", "--ignore-installed", "--no-build-isolation", "--report", "-"),
            *("--index-url", index.as_uri(), *targets),
        )
    )
    return {item["metadata"]["name"]: item["download_info"]["url"] for item in report["install"]}


def pinned(lock):
    """Versions by name, of this lock and of those that it includes."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    included = re.search(r"^-r (\w+)\.lock$", text, re.MULTILINE)
    own = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    return (pinned(included[1]) if included else {}) | own


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_pins_what_is_asked_for_with_hashes(lock):
    pins = pinned(lock)
    asked = [
        *CLIENT_PROJECT["dependencies"],
        *(r for extra in EXTRAS[lock] for r in ROOT_PROJECT["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, asked):
        if requirement.name not in OURS:
            assert requirement.specifier.contains(pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]), requirement
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert "://" not in text
    for block in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block


def test_no_message_or_page_installs_our_names_from_an_index():
    files = [path for pattern in ("*.md", "*.toml", "Dockerfile", "Makefile") for path in ROOT.glob(pattern)]
    for directory in ("protos", "service", "training", "docs"):
        files += [path for path in (ROOT / directory).rglob("*") if path.suffix in {".py", ".md", ".toml", ".html"}]
    for path in files:
        assert not re.search(r"pip3? install [^\n]*headline-popularity", path.read_text("utf-8")), path


def test_a_command_that_is_not_installed_is_named_with_what_brings_it(wheels, tmp_path):
    """With the client alone, also if there is another's package called `service`."""
    wheels["headline-popularity-client"].extractall(tmp_path)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "commands.py").write_text("raise SystemExit('a stranger')")
    program = (
        "import sys\nsys.path[:] = [p for p in sys.path if not p.endswith(('site-packages', 'protos'))]\n"
        f"sys.path.append({str(tmp_path)!r})\nfrom headlines.__main__ import main\nsys.exit(main())"
    )
    for command, extra in (("serve", "service"), ("healthcheck", "service"), ("fit", "training")):
        done = subprocess.run(
            [sys.executable, "-S", "-c", program, command], env={}, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"headlines {command}: the command {command} is not installed; "
            f"in a checkout of this project: pip install ./protos '.[{extra}]'\n"
        )
