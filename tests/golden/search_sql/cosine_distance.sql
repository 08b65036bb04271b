SELECT `uri`, `sha256`, `format`, `width`, `height`, `label`, COSINE_DISTANCE(`embedding`, @embedding) AS embed_images_distance
FROM `my-project.photos.embeddings`
WHERE `model_fingerprint` = @model_fingerprint
  AND `preprocess_fingerprint` = @preprocess_fingerprint
  AND `precision` = @precision
ORDER BY embed_images_distance, `uri`
LIMIT 10;
