"""Files, paths, downloads and console output."""
