"""Sources of data sets: downloads, the user's own files and the toy kitchen, each in its owner's layout."""
