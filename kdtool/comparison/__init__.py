"""Methods x students x seeds from one recipe, paired by seed: ``kdtool.compare``."""
