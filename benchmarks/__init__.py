"""One program per figure of the README; `make bench NAME=demo` runs one."""
