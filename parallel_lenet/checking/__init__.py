"""Checks whether a user's own kernels and layers are right, and names the mistake if they are not.

`kernels` and `layers` call the code and compare what comes out with `naive` and with finite differences. `diagnosis`
finds the mistake by trying: it computes what known mistakes would give, and compares these with the actual result.
`isolated` does all this in another process, which may crash or never end.
"""
