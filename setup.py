"""Build in a folder of its own, as setuptools puts whatever it finds in build/lib into a wheel.

An earlier `pip install .` leaves old modules there, and anybody can leave others. All else is in pyproject.toml.
"""

import atexit
import shutil
import tempfile

from setuptools import setup
from setuptools.command.build import build


class FreshBuild(build):
    """The command `build`, in a new temporary folder unless --build-base names another one."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = tempfile.mkdtemp(prefix="dpd-build-")
        atexit.register(shutil.rmtree, self.build_base, ignore_errors=True)


setup(cmdclass={"build": FreshBuild})
