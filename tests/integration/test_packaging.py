"""The artefact: what a user's pip installs, tried from outside the checkout in an environment of its own."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from twisted.trial.unittest import TestCase

ROOT = Path(__file__).resolve().parents[2]

SOURCES = (
    ".ci",
    ".gitignore",
    "CHANGELOG.rst",
    "CONTRIBUTING.rst",
    "LICENSE",
    "MANIFEST.in",
    "README.rst",
    "benchmarks",
    "deploy",
    "docs",
    "examples",
    "newsfragments",
    "pyproject.toml",
    "serverworker",
    "setup.py",
    "tests",
    "twisted",
)
"""What a copy of the checkout is made of. A build leaves files behind, so it never runs in the checkout itself."""


class CommandFailed(AssertionError):
    """A command that had to succeed did not; the text has its output."""


class Environment:
    """A virtual environment with our dependencies, a copy of the checkout, and an empty folder to run in."""

    def __init__(self, base: Path) -> None:
        self.checkout = base / "checkout"
        self.wheels = base / "wheels"
        self.elsewhere = base / "elsewhere"
        self.bin = base / "venv" / "bin"
        self.elsewhere.mkdir()
        copy_sources(self.checkout)
        # Without a pip of its own, which takes seconds to install: the one that installed us does its work.
        venv = [sys.executable, "-m", "venv", "--without-pip", str(base / "venv")]
        subprocess.run(venv, check=True, timeout=120)
        # Built without isolation from here on: the same setuptools for every build, fetched once.
        self.pip("install", "--quiet", "setuptools>=77", "wheel")
        self.pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", self.wheels, self.checkout)
        self.pip("install", "--quiet", self.wheel)
        self.twisted_plugins = self.site_packages / "twisted" / "plugins"

    @property
    def wheel(self) -> Path:
        """The wheel that was built from the copy."""
        (found,) = self.wheels.glob("serverworker-*.whl")
        return found

    @property
    def site_packages(self) -> Path:
        """Where this environment's packages lie."""
        return Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the empty folder; raises `CommandFailed` unless it exits 0."""
        return self._run(self.bin / program, *arguments)

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        strangers = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
        environment = {key: value for key, value in os.environ.items() if key not in strangers}
        done = subprocess.run(
            command,
            cwd=self.elsewhere,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            line = " ".join(map(str, command))
            raise CommandFailed(f"{line}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def pip(self, *arguments: str | Path) -> None:
        """Install or uninstall in this environment."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.bin / "python")
        self._run(*pip, *arguments)

    def python(self, source: str) -> subprocess.CompletedProcess[str]:
        """Run a piece of Python in this environment."""
        return self.run("python", "-c", source)

    def install_wheel(self) -> None:
        """Bring the environment to: the wheel is installed, and only it."""
        self.uninstall()
        self.pip("install", "--quiet", "--no-deps", self.wheel)

    def install_editable(self) -> None:
        """Bring the environment to: the copy of the checkout is installed by `pip install -e`."""
        self.uninstall()
        self.pip("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", self.checkout)

    def uninstall(self) -> None:
        """Bring the environment to: nothing of ours is installed."""
        self.pip("uninstall", "--quiet", "--yes", "serverworker")


def copy_sources(target: Path) -> None:
    """Copy what the project is made of, without caches, to a new folder."""
    target.mkdir()
    left = shutil.ignore_patterns("__pycache__", "*.pyc", "dropin.cache", "_build")
    for name in SOURCES:
        source = ROOT / name
        if not source.exists():
            continue
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=left)
        else:
            shutil.copy2(source, target / name)


@functools.cache
def environment() -> Environment:
    """The one environment of this test run; made at the first call, removed when the run ends."""
    base = Path(tempfile.mkdtemp(prefix="serverworker-packaging-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    return Environment(base)


def modules_of_the_package() -> set[str]:
    """The paths of all our modules, from the checkout's root."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / "serverworker").rglob("*.py")}


class ContentTests(TestCase):
    """What is in the wheel and in the sdist."""

    def test_every_folder_is_listed(self) -> None:
        """The list of packages in pyproject.toml, which is written by hand, names each folder and the plugins."""
        with (ROOT / "pyproject.toml").open("rb") as file:
            listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
        folders = {str(Path(name).parent).replace("/", ".") for name in modules_of_the_package()}
        self.assertEqual(sorted(folders | {"twisted.plugins"}), sorted(listed))

    def test_the_wheel_holds_the_package_and_the_plugin(self) -> None:
        """Every module, the marker of a typed package, the dashboard's page, and of Twisted's folder our one file only."""
        with zipfile.ZipFile(environment().wheel) as opened:
            names = set(opened.namelist())
        ours = {name for name in names if name.startswith("serverworker/")}
        pages = (ROOT / "serverworker/surfaces/dashboard/static").iterdir()
        others = {"serverworker/py.typed", *(str(page.relative_to(ROOT)) for page in pages)}
        self.assertEqual(modules_of_the_package() | others, ours)
        rest = {name for name in names - ours if ".dist-info/" not in name}
        self.assertEqual({"twisted/plugins/serverworker_plugin.py"}, rest)

    def test_the_sdist_holds_what_tests_it(self) -> None:
        """Whoever packages it for a distribution gets the tests, the documentation and the licence as well."""
        source = (
            "import os, setuptools.build_meta as backend\n"
            f"os.chdir({str(environment().checkout)!r})\n"
            f"print('\\n' + backend.build_sdist({str(environment().wheels)!r}))"
        )
        archive = environment().wheels / environment().python(source).stdout.split()[-1]
        with tarfile.open(archive) as opened:
            names = {name.partition("/")[2] for name in opened.getnames()}
        tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
        owed = {
            "LICENSE",
            "CHANGELOG.rst",
            "CONTRIBUTING.rst",
            "docs/conf.py",
            ".ci/run",
            "tests/system/README",
        }
        plugin = "twisted/plugins/serverworker_plugin.py"
        self.assertEqual(set(), (tests | owed | modules_of_the_package() | {plugin}) - names)


class InstalledTests(TestCase):
    """The environment after pip has done its work."""

    def assert_found(self) -> None:
        """twistd and twist list our plugin, under each way to start them."""
        for command in (("twistd", "--help"), ("twist", "--help"), ("python", "-m", "twisted", "--help")):
            told = environment().run(*command)
            self.assertIn("    serverworker ", told.stdout, f"{command} does not list the plugin")
            self.assertNotIn("Traceback", told.stdout + told.stderr)

    def assert_twisted_intact(self, before: bytes) -> None:
        """Twisted's own plugin folder is as it was, and twistd works and no longer knows us."""
        self.assertEqual(before, (environment().twisted_plugins / "__init__.py").read_bytes())
        told = environment().run("twistd", "--help")
        self.assertIn("    web ", told.stdout)
        self.assertNotIn("serverworker", told.stdout + told.stderr)

    def test_the_wheel_is_found(self) -> None:
        """After `pip install` of the wheel the plugin is found from outside the checkout."""
        environment().install_wheel()
        self.assert_found()

    def test_an_editable_install_is_found(self) -> None:
        """After `pip install -e .` as well, and the code that runs is the checkout's."""
        environment().install_editable()
        self.assert_found()
        told = environment().python("import serverworker.values; print(serverworker.values.__file__)")
        self.assertEqual(
            environment().checkout / "serverworker" / "values" / "__init__.py", Path(told.stdout.strip())
        )

    def test_uninstalling_leaves_twisted_intact(self) -> None:
        """Neither way of installing takes anything of Twisted's with it when it goes."""
        plugins = environment().twisted_plugins / "__init__.py"
        before = plugins.read_bytes()
        for install in (environment().install_wheel, environment().install_editable):
            install()
            self.assertEqual(before, plugins.read_bytes())
            environment().uninstall()
            self.assert_twisted_intact(before)

    def test_finding_the_plugin_imports_nothing_of_ours(self) -> None:
        """twistd reads the plugin in every run on the machine; our package is loaded only when it is asked for."""
        environment().install_wheel()
        told = environment().python(
            "import sys\n"
            "from twisted.application.service import IServiceMaker\n"
            "from twisted.plugin import getPlugins\n"
            "ours = [each for each in getPlugins(IServiceMaker) if each.tapname == 'serverworker']\n"
            "loaded = [name for name in sys.modules if name.split('.')[0] == 'serverworker']\n"
            "print(len(ours), ours[0].module, loaded)"
        )
        self.assertEqual("1 serverworker.session []", told.stdout.strip())

    def test_the_plugin_has_a_command_line(self) -> None:
        """`twistd serverworker --help` and `twist serverworker --help` load our module and show its options."""
        environment().install_wheel()
        for program in ("twistd", "twist"):
            told = environment().run(program, "serverworker", "--help")
            self.assertIn("--port", told.stdout)

    def test_a_monitor_starts_small(self) -> None:
        """What twistd loads to read our options installs no reactor and brings in no web server or client."""
        environment().install_wheel()
        told = environment().python(
            "import sys\n"
            "import serverworker.session\n"
            "heavy = ('twisted.internet.reactor', 'twisted.web', 'treq', 'klein')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        self.assertEqual("[]", told.stdout.strip())
