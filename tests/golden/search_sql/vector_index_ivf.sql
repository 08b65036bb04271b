CREATE VECTOR INDEX IF NOT EXISTS `embedding_index`
ON `my-project.photos.embeddings`(`embedding`)
STORING (`model_fingerprint`, `preprocess_fingerprint`, `precision`, `uri`, `sha256`, `format`, `width`, `height`)
OPTIONS (index_type = 'IVF', distance_type = 'COSINE');
