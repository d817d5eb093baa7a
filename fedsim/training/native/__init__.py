"""The native training engine: a contract's network in C++, whole epochs of many phones without Python or torch."""
