"""Files of samples: tables of any kind, folders of splits, names of the hub, and lines that hold no sample."""
