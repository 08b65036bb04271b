"""From a model handle to a folder with a model, and what that model takes and gives."""
