"""Studies and benchmarks: what stands on fedsim, and what fedsim never imports."""
