"""Where data sets come from: downloads, users' own files, and the toy kitchen, each in its owner's layout."""
