"""Reads packed batches back, independently of the packer."""

import collections

from sbs_jax.input_pipeline import packing


def read_back(batch: packing.Batch) -> collections.Counter:
    """The examples a batch holds, found by row and segment id."""
    found = collections.Counter()
    for row in range(len(batch["encoder_segment_ids"])):
        for segment in set(batch["encoder_segment_ids"][row].tolist()) - {0}:
            source = batch["encoder_segment_ids"][row] == segment
            target = batch["decoder_segment_ids"][row] == segment
            tasks = set(batch["decoder_task_ids"][row][target].tolist())
            assert len(tasks) == 1
            found[
                tuple(batch["encoder_input_tokens"][row][source].tolist()),
                tuple(batch["decoder_target_tokens"][row][target].tolist()),
                tasks.pop(),
            ] += 1
    return found


def read_shared(batch: packing.Batch) -> collections.Counter:
    """As `read_back`, where several targets share an input: found by row and source id."""
    found = collections.Counter()
    for row in range(len(batch["decoder_segment_ids"])):
        for segment in set(batch["decoder_segment_ids"][row].tolist()) - {0}:
            target = batch["decoder_segment_ids"][row] == segment
            (source,) = set(batch["decoder_source_ids"][row][target].tolist())
            (task,) = set(batch["decoder_task_ids"][row][target].tolist())
            inputs = batch["encoder_segment_ids"][row] == source
            found[
                tuple(batch["encoder_input_tokens"][row][inputs].tolist()),
                tuple(batch["decoder_target_tokens"][row][target].tolist()),
                task,
            ] += 1
            assert batch["decoder_input_tokens"][row][target][0] == task - 1
    return found
