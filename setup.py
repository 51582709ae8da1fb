"""Installation of offlinerlkit-damo: `pip install .`, with extras in brackets, such as `pip install ".[minari,report]"`."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_version() -> str:
    """The package's version, read as text: importing the package would need what is being installed."""
    source = (HERE / "offlinerlkit_damo" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise RuntimeError("offlinerlkit_damo/__init__.py has no line __version__ = \"...\"")
    return found.group(1)


EXTRAS = {
    "d4rl": ["d4rl", "gym<0.25"],
    "minari": ["minari[hdf5,hf]>=0.5"],
    "neorl": [],  # its npz files are read with numpy; the neorl package itself is not needed
    "tune": ["ray[tune]"],
    "report": ["scipy>=1.15"],
    "video": ["imageio[ffmpeg]"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "test": ["pytest>=8", "pytest-xdist>=3.2", "hypothesis", "scipy>=1.15", "ruff", "mypy", "types-PyYAML", "types-tqdm", "pandas-stubs"],
}
# with them nothing is skipped
EXTRAS["test"] += ["minari[hdf5]>=0.5", "psutil", "types-psutil", *EXTRAS["tune"], *EXTRAS["video"], *EXTRAS["export"]]

setup(
    name="offlinerlkit-damo",
    version=read_version(),
    description="DAMO (Dual Alignment Maximin Optimization) for OfflineRL-Kit",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    # patches/ is no code, but an installed package must find it: it becomes a folder of the package
    packages=[*find_packages(include=["offlinerlkit_damo", "offlinerlkit_damo.*"]), "offlinerlkit_damo.patches"],
    package_dir={"offlinerlkit_damo.patches": "patches"},
    package_data={
        "offlinerlkit_damo": ["configs/*.yaml", "tasks/behaviour/*.npz", "py.typed"],
        "offlinerlkit_damo.patches": ["*.patch"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "numpy>=1.24",
        "gymnasium[mujoco]>=1.0",
        "h5py",
        "pyyaml",
        "tqdm",
        "matplotlib",
        "imageio",
        "pandas",
        "tensorboard",
    ],
    extras_require=EXTRAS,
    zip_safe=False,
)
