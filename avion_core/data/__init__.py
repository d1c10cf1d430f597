"""Data sets as tables: sources and their layouts, clip tables, the chunk index, and the loader over them."""
