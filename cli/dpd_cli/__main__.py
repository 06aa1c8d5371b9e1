import os
import sys

# `python -m` looks for modules in the working folder first, where a numpy.py of the user's may lie. Whoever wants that
# names the folder in PYTHONPATH, which stays.
if not sys.flags.safe_path and sys.path and os.path.abspath(sys.path[0]) == os.getcwd():  # noqa: PTH100, PTH109
    del sys.path[0]

from dpd_cli.main import main

main()
