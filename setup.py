"""Builds the native training engine where there is a C++ compiler; everything else is said in pyproject.toml.

The extension is optional: without a compiler the install succeeds, and training runs in torch.
"""

from glob import glob

from setuptools import Extension, setup

ENGINE = Extension(
    "fedsim.training.native._engine",
    sources=sorted(glob("fedsim/training/native/*.cpp")),
    depends=sorted(glob("fedsim/training/native/*.hpp")),
    language="c++",
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-ffp-contract=fast",  # a * b + c in one rounding, as the kernels are written for
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
        "-Wno-psabi",
        "-pthread",
    ],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[ENGINE])
