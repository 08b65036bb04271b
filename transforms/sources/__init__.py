"""Where images come from: files, lists and tables of them, and what is carried along."""
