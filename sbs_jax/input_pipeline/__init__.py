"""From text to batches: vocabularies, token cache, packing, the plan of an epoch."""
