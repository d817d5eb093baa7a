"""What holds for every test."""

from hypothesis import settings

# How long an example takes says more of the machine's other users than of the code: speed is for the benchmarks.
settings.register_profile("fedsim", deadline=None)
settings.load_profile("fedsim")
