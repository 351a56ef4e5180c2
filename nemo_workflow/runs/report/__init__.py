"""A run's own files -> what is known of it -> report.html. Reading is light; only `charts` needs the plotting library."""
