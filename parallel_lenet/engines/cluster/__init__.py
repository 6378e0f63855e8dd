"""Workers of a cluster, through joblib: Dask, Ray; and loky and threads on this machine."""
