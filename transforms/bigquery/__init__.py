"""Tables of embeddings in BigQuery."""
