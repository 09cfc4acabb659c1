"""Tables, figures, statistics and the HTML page; reads files, never a model."""
