"""The strategies, one file per family; every module here is found without being listed anywhere."""
