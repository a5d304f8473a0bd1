"""The programs that are built: where they are."""

import subprocess

from .node import HERE


def built():
    """The folder whose `bin` holds them, after they have been built where they were missing."""
    return subprocess.run([HERE / "build"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
