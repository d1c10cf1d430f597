"""Data sets as tables: layouts, clip tables, the chunk index, and the loader over them."""
