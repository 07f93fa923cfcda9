"""The Triton kernels: one module per operator, functions named and called as in ``cpp/schema.cpp``."""
