SELECT `report`
FROM `my-project.photos.embeddings_runs`
WHERE JSON_VALUE(`report`, '$.status') = 'complete'
QUALIFY 1 = ROW_NUMBER() OVER (
  PARTITION BY
    JSON_VALUE(`report`, '$.model.fingerprint'),
    JSON_VALUE(`report`, '$.preprocessing.fingerprint'),
    JSON_VALUE(`report`, '$.model.precision')
  ORDER BY `run_id` DESC
)
ORDER BY `run_id` DESC;
