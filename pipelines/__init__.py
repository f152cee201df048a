"""The one place that joins training, compilation and serving: the command line and the scripts."""
