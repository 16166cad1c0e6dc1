"""Does sharing weights help or hurt each task? `arms` are trained, `probes` and `conflict` measure, `report` says."""
