"""The networks we train, one file each, written in the layers of ``fedsim.coreml.layers``."""
