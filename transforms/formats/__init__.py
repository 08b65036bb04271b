"""The rows of a run, as TFRecords and as Parquet."""
