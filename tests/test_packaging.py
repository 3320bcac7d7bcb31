"""What a user installs: the sdist, the wheel, and the locks that `make` installs from."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pyqueue

ROOT = Path(__file__).parent.parent
LOCKS = {"demo": ("cli", "embedded", "fast"), "image": ("cli", "fast"), "test": ("test",)}


def run(*command: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def succeed(*command: str | Path, cwd: Path, **environ: str) -> str:
    done = run(*command, cwd=cwd, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def tracked(folder: str) -> set[str]:
    """The files of a folder of the checkout, without what Python leaves there."""
    paths = (path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}


def test_the_wheel_holds_the_package_and_every_script_and_nothing_else(
    wheel_names: set[str],
) -> None:
    """A script that is not in the wheel is missed only by those who installed it."""
    scripts = {f"pyqueue/{name}" for name in tracked("lua")}
    installed = {name for name in wheel_names if ".dist-info/" not in name}
    assert installed == tracked("pyqueue") | scripts
    assert "pyqueue/lua/lease.lua" in installed
    assert "pyqueue/py.typed" in installed


def test_the_wheel_carries_the_licence_and_one_version(wheel: Path, wheel_names: set[str]) -> None:
    info = f"pyqueue_redis-{pyqueue.__version__}.dist-info"
    assert wheel.name == f"pyqueue_redis-{pyqueue.__version__}-py3-none-any.whl"
    assert f"{info}/licenses/LICENSE" in wheel_names


def test_the_sdist_is_the_whole_checkout(built: Path) -> None:
    """Distributions build and test from it."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = {
        "LICENSE",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "requirements/test.txt",
    }
    assert tracked("pyqueue") | tracked("lua") | tracked("tests") | top <= names


def requirements(of: Distribution, extras: Sequence[str]) -> Iterator[Requirement]:
    """What a distribution requires here, with the extras that are asked for."""
    for line in of.requires or ():
        requirement = Requirement(line)
        asked = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, asked)):
            yield requirement


def closure(of: Distribution, extras: Sequence[str]) -> dict[str, Distribution]:
    """The distributions that an installer would install for it, as they are installed here."""
    found: dict[str, Distribution] = {}
    todo = list(requirements(of, extras))
    while todo:
        requirement = todo.pop()
        dependency = distribution(requirement.name)
        assert requirement.specifier.contains(dependency.version), requirement
        name = canonicalize_name(requirement.name)
        if name not in found or requirement.extras:
            todo += requirements(dependency, sorted(requirement.extras))
        found[name] = dependency
    return found


def install(wheel: Path, extras: Sequence[str], where: Path) -> Path:
    """Make an environment with the wheel and what its metadata asks for; return its bin folder.

    The dependencies are linked from the environment of the tests, so that no network is needed.
    """
    venv.create(where, symlinks=True)
    python = where / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    succeed(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=where)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    purelib = succeed(python, "-c", ask, cwd=where)
    (installed,) = Distribution.discover(name="pyqueue-redis", path=[purelib])
    for dependency in closure(installed, extras).values():
        for top in {file.parts[0] for file in dependency.files or ()} - {"..", "__pycache__"}:
            link = Path(purelib, top)
            if not link.exists():
                link.symlink_to(Path(str(dependency.locate_file(top))))
    return where / "bin"


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pip install pyqueue-redis`: no extra."""
    return install(wheel, (), tmp_path_factory.mktemp("core"))


def test_every_script_loads_from_the_wheel(core: Path, tmp_path: Path) -> None:
    """In the checkout the loader finds lua/ at the top; here there is only the packaged folder."""
    succeed(core / "python", "-m", "pyqueue._scripts", tmp_path / "lua", cwd=tmp_path)
    written = {path.name for path in (tmp_path / "lua").iterdir()}
    assert written == {path.name for path in (ROOT / "lua").glob("*.lua")}


def test_the_core_needs_no_extra(core: Path, tmp_path: Path) -> None:
    """Whatever the package exports can be had without click, rich and the embedded server."""
    code = "import pyqueue; print(pyqueue.__file__, [getattr(pyqueue, n) for n in pyqueue.__all__])"
    listed = succeed(core / "python", "-c", code, cwd=tmp_path)
    assert listed.startswith(str(core.parent))


def test_the_command_without_its_extra_says_what_to_install(core: Path, tmp_path: Path) -> None:
    done = run(core / "pyqueue", "--version", cwd=tmp_path)
    assert done.returncode != 0
    assert "pyqueue-redis[cli]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_its_version(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, ("cli",), tmp_path / "venv")
    assert pyqueue.__version__ in succeed(commands / "pyqueue", "--version", cwd=tmp_path)


def test_the_installed_command_works_off_a_queue(wheel: Path, tmp_path: Path) -> None:
    """Nothing here comes from the checkout, the server and its scripts included."""
    command = install(wheel, ("cli", "embedded", "fast"), tmp_path / "venv") / "pyqueue"
    url = f"embedded:{tmp_path / 'state'}"
    succeed(command, "push", "job2", "apple", "banana", cwd=tmp_path, PYQUEUE_URL=url)
    program = ("sh", "-c", "cat >> done; echo >> done")
    succeed(command, "work", "job2", "--", *program, cwd=tmp_path, PYQUEUE_URL=url)
    assert (tmp_path / "done").read_text().splitlines() == ["apple", "banana"]


def locked(name: str) -> dict[str, str]:
    """Distribution → version of a lock."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_packages_and_hashes_and_no_place_to_get_them(lock: str) -> None:
    """Whose mirror made it is nobody's business, and must not be where others install from."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    allowed = r"[a-z0-9-]+==[\w.]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [line for line in lines if not re.fullmatch(allowed, line)] == []
    assert "://" not in text


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_a_lock_has_what_pyproject_asks_for(lock: str, extras: Sequence[str]) -> None:
    """`make lock` was forgotten when this fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    for extra in extras:
        asked += optional[extra]
    versions = locked(lock)
    for line in asked:
        requirement = Requirement(line)
        if requirement.name != "pyqueue-redis":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), (
                line
            )


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_shown_and_shipped_is_what_is_tested(lock: str) -> None:
    assert locked(lock).items() <= locked("test").items()
