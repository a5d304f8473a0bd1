"""Builds the programs of ours: nodens as the image ships it, the floors and the load generator."""

import os
import re
import subprocess
from pathlib import Path

from .process import Failed

ROOT = Path(__file__).resolve().parents[2]


def target_directory():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()


def host():
    text = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return re.search(r"^host: (.*)$", text, re.MULTILINE).group(1)


def image_flags():
    """The Dockerfile's RUSTFLAGS: static, so that what is measured is what is shipped."""
    text = (ROOT / "Dockerfile").read_text()
    found = re.search(r"^ENV RUSTFLAGS='(.*)'$", text, re.MULTILINE)
    if not found:
        raise Failed("no ENV RUSTFLAGS='...' in Dockerfile")
    return found.group(1)


def build(what):
    """Builds the named targets with the image's flags; the directory they are in."""
    try:
        target = host()
    except FileNotFoundError:
        raise Failed("needs Rust: there is no rustc") from None
    environment = {**os.environ, "RUSTFLAGS": image_flags()}
    command = ["cargo", "build", "--quiet", "--profile", "image", "--locked", "--target", target, *what]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:
        raise Failed("cargo build failed")
    return target_directory() / target / "image"
