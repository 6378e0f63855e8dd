"""Workers of a cluster, through joblib: Dask, Ray, and on this machine loky and threads."""
