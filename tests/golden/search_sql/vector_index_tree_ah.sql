CREATE VECTOR INDEX IF NOT EXISTS `embedding_index`
ON `my-project.photos.embeddings`(`embedding`)
OPTIONS (index_type = 'TREE_AH', distance_type = 'COSINE');
