"""The operators of hdrops: public functions, fake kernels, autograd and the choice of a backend."""
