"""The adapters pages: they stand in `generation` because they tell of takes and jobs beside the adapters."""
