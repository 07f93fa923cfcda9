"""The metrics of the field: fusion quality, structural similarity, and fidelity in the domains of HDR imaging."""
