"""What a model costs to run and to store, counted from shapes alone."""
