SELECT base.`uri`, base.`sha256`, base.`format`, base.`width`, base.`height`, base.`label`, distance AS embed_images_distance
FROM VECTOR_SEARCH(
  (
    SELECT `uri`, `sha256`, `format`, `width`, `height`, `label`, `embedding`
    FROM `my-project.photos.embeddings`
    WHERE `model_fingerprint` = @model_fingerprint
      AND `preprocess_fingerprint` = @preprocess_fingerprint
      AND `precision` = @precision
  ),
  'embedding',
  (SELECT @embedding AS `embedding`),
  top_k => 10,
  distance_type => 'COSINE'
)
ORDER BY embed_images_distance, base.`uri`;
