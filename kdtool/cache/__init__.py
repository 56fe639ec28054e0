"""Teachers' outputs, kept: computed once for K views of every training sample and replayed by later runs."""
