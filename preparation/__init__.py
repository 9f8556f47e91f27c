"""Documents → token datasets: what `dataset_prep.py` and `fineweb_prep.py` share."""
