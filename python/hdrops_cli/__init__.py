"""The command line of hdrops.

It stands outside the package that imports torch, and its modules import torch, numpy and hdrops only where a
command runs: ``hdrops --help`` is instant.
"""
