"""One module per checkpoint format: names, layouts, reading and writing."""
